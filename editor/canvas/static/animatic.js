// Draws cut-outs as textured triangles. The shapes come from the server; here they are only painted.
// Both painters draw {bitmap, uv, triangles, vertices, carry, view, opacity, front}: `carry` [a, b, c, d, e, f] takes vertices to 0..1 of the
// picture, `view` that to CSS pixels of the stage; where `front`, a canvas over the whole picture or null, is opaque, nothing is drawn.

export function makePainter(canvas) {
  const options = { alpha: true, premultipliedAlpha: true, antialias: true, preserveDrawingBuffer: false };
  const gl = canvas.getContext("webgl2", options);
  return gl ? new TrianglePainter(canvas, gl) : new PlainPainter(canvas);
}

/** The product of two affine maps: first `inner`, then `outer`. */
export function chain(outer, inner) {
  const [a, b, c, d, e, f] = outer;
  const [g, h, i, j, k, l] = inner;
  return [a * g + c * h, b * g + d * h, a * i + c * j, b * i + d * j, a * k + c * l + e, b * k + d * l + f];
}

const VERTEX = `#version 300 es
in vec2 place; in vec2 uv; uniform mat3 carry; uniform mat3 view; out vec2 spot; out vec2 where;
void main() { spot = uv; vec3 at = carry * vec3(place, 1.0); where = at.xy; gl_Position = vec4((view * at).xy, 0.0, 1.0); }`;

const FRAGMENT = `#version 300 es
precision highp float; in vec2 spot; in vec2 where; uniform sampler2D picture; uniform sampler2D front; uniform float opacity; out vec4 color;
void main() { color = texture(picture, spot) * opacity * (1.0 - texture(front, where).a); }`;

class TrianglePainter {
  constructor(canvas, gl) {
    this.canvas = canvas;
    this.gl = gl;
    this.setUp();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.setUp());
  }

  setUp() {
    const { gl } = this;
    this.textures = new Map();
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.bindAttribLocation(this.program, 0, "place");
    gl.bindAttribLocation(this.program, 1, "uv");
    gl.linkProgram(this.program);
    this.uniforms = Object.fromEntries(["carry", "view", "opacity", "picture", "front"].map((name) => [name, gl.getUniformLocation(this.program, name)]));
    this.buffers = { place: gl.createBuffer(), uv: gl.createBuffer(), triangles: gl.createBuffer() };
    this.nothing = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  begin(width, height, ratio) {
    fitCanvas(this.canvas, width, height, ratio);
    this.size = [width, height];
    this.gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    this.gl.clearColor(0, 0, 0, 0);
    this.gl.clear(this.gl.COLOR_BUFFER_BIT);
  }

  draw({ bitmap, uv, triangles, vertices, carry, view, opacity, front }) {
    const { gl } = this;
    gl.useProgram(this.program);
    [bitmap, front ?? this.nothing].forEach((source, unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, this.texture(source));
    });
    gl.uniform1i(this.uniforms.picture, 0);
    gl.uniform1i(this.uniforms.front, 1);
    gl.uniformMatrix3fv(this.uniforms.carry, false, square(carry));
    gl.uniformMatrix3fv(this.uniforms.view, false, square(chain([2 / this.size[0], 0, 0, -2 / this.size[1], -1, 1], view)));
    gl.uniform1f(this.uniforms.opacity, opacity);
    this.fill(0, this.buffers.place, vertices);
    this.fill(1, this.buffers.uv, uv);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.triangles);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STREAM_DRAW);
    gl.drawElements(gl.TRIANGLES, triangles.length, gl.UNSIGNED_SHORT, 0);
  }

  fill(slot, buffer, values) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STREAM_DRAW);
    gl.enableVertexAttribArray(slot);
    gl.vertexAttribPointer(slot, 2, gl.FLOAT, false, 0, 0);
  }

  texture(bitmap) {
    const { gl } = this;
    if (this.textures.has(bitmap)) return this.textures.get(bitmap);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.textures.set(bitmap, texture);
    return texture;
  }

  forget(bitmap) {
    if (!this.textures.has(bitmap)) return;
    this.gl.deleteTexture(this.textures.get(bitmap));
    this.textures.delete(bitmap);
  }
}

const square = ([a, b, c, d, e, f]) => [a, b, 0, c, d, 0, e, f, 1];

class PlainPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.apart = document.createElement("canvas").getContext("2d");
  }

  begin(width, height, ratio) {
    fitCanvas(this.canvas, width, height, ratio);
    this.ratio = ratio;
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  draw(wish) {
    const view = chain([this.ratio, 0, 0, this.ratio, 0, 0], wish.view);
    if (!wish.front) return void this.lay(this.context, wish, view);
    const { apart, canvas, context } = this;
    Object.assign(apart.canvas, { width: canvas.width, height: canvas.height });
    this.lay(apart, wish, view);
    apart.globalCompositeOperation = "destination-out";
    apart.setTransform(...view);
    apart.drawImage(wish.front, 0, 0, 1, 1);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(apart.canvas, 0, 0);
    return undefined;
  }

  lay(context, { bitmap, uv, triangles, vertices, carry, opacity }, view) {
    context.globalAlpha = opacity;
    const [a, b, c, d, e, f] = chain(view, carry);
    const at = (index) => {
      const [x, y] = [vertices[2 * index], vertices[2 * index + 1]];
      return [a * x + c * y + e, b * x + d * y + f];
    };
    const spot = (index) => [uv[2 * index] * bitmap.width, uv[2 * index + 1] * bitmap.height];
    const whole = wholeMap(uv, vertices, spot, at);
    if (whole) {
      context.setTransform(...whole);
      context.drawImage(bitmap, 0, 0);
    } else {
      for (let index = 0; index < triangles.length; index += 3) triangle(context, bitmap, triangles.subarray(index, index + 3), spot, at);
    }
    context.globalAlpha = 1;
  }

  forget() {}
}

function triangle(context, bitmap, corners, spot, at) {
  const places = [...corners].map(at);
  const [mx, my] = [0, 1].map((axis) => (places[0][axis] + places[1][axis] + places[2][axis]) / 3);
  context.save();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.beginPath();
  for (const [x, y] of places) {
    // Half a pixel of overlap hides the seams between triangles.
    const distance = Math.hypot(x - mx, y - my) || 1;
    context.lineTo(x + ((x - mx) * 0.6) / distance, y + ((y - my) * 0.6) / distance);
  }
  context.clip();
  const map = mapBetween([...corners].map(spot), places);
  if (map) {
    context.setTransform(...map);
    context.drawImage(bitmap, 0, 0);
  }
  context.restore();
}

/** The affine map that takes three points to three points, or null when they lie on a line. */
export function mapBetween([p, q, r], [u, v, w]) {
  const det = (q[0] - p[0]) * (r[1] - p[1]) - (r[0] - p[0]) * (q[1] - p[1]);
  if (Math.abs(det) < 1e-9) return null;
  const row = (axis) => {
    const [d1, d2] = [v[axis] - u[axis], w[axis] - u[axis]];
    const gx = (d1 * (r[1] - p[1]) - d2 * (q[1] - p[1])) / det;
    const gy = (d2 * (q[0] - p[0]) - d1 * (r[0] - p[0])) / det;
    return [gx, gy, u[axis] - gx * p[0] - gy * p[1]];
  };
  const [x, y] = [row(0), row(1)];
  return [x[0], y[0], x[1], y[1], x[2], y[2]];
}

/** The one affine map that a whole mesh follows, or null when it bends by more than a third of a pixel. */
function wholeMap(uv, vertices, spot, at) {
  const count = uv.length / 2;
  const corners = [0, nearestTo(uv, 1, 0), count - 1];
  const map = mapBetween(corners.map(spot), corners.map(at));
  if (!map) return null;
  for (let index = 0; index < count; index += 1) {
    const [x, y] = spot(index);
    const [u, v] = at(index);
    if (Math.abs(map[0] * x + map[2] * y + map[4] - u) > 0.33 || Math.abs(map[1] * x + map[3] * y + map[5] - v) > 0.33) return null;
  }
  return map;
}

function nearestTo(uv, x, y) {
  let best = 0;
  for (let index = 0; index < uv.length / 2; index += 1) {
    const distance = (other) => Math.hypot(uv[2 * other] - x, uv[2 * other + 1] - y);
    if (distance(index) < distance(best)) best = index;
  }
  return best;
}

/** Where a spot of the reference (0..1) lies in a mesh, in the mesh's coordinates; null outside it. */
export function followMesh(uv, triangles, vertices, spot) {
  return acrossMesh(uv, triangles, vertices, spot);
}

/** Which spot of the reference (0..1) lies under a place of the picture; null beside the object. Later triangles lie on top. */
export function spotUnder(uv, triangles, vertices, place) {
  return acrossMesh(vertices, triangles, uv, place);
}

function acrossMesh(from, triangles, to, point) {
  for (let index = triangles.length - 3; index >= 0; index -= 3) {
    const corners = [triangles[index], triangles[index + 1], triangles[index + 2]];
    const pick = (array) => corners.map((corner) => [array[2 * corner], array[2 * corner + 1]]);
    const [p, q, r] = pick(from);
    const det = (q[0] - p[0]) * (r[1] - p[1]) - (r[0] - p[0]) * (q[1] - p[1]);
    if (Math.abs(det) < 1e-12) continue;
    const s = ((point[0] - p[0]) * (r[1] - p[1]) - (r[0] - p[0]) * (point[1] - p[1])) / det;
    const t = ((q[0] - p[0]) * (point[1] - p[1]) - (point[0] - p[0]) * (q[1] - p[1])) / det;
    if (s < -1e-4 || t < -1e-4 || s + t > 1.0001) continue;
    const [u, v, w] = pick(to);
    return [0, 1].map((axis) => u[axis] + s * (v[axis] - u[axis]) + t * (w[axis] - u[axis]));
  }
  return null;
}

/** Give a canvas the size of its element in device pixels. */
export function fitCanvas(canvas, width, height, ratio) {
  const [w, h] = [Math.max(Math.round(width * ratio), 1), Math.max(Math.round(height * ratio), 1)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
}
