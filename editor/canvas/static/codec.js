// Dense arrays travel as base64 of little-endian numbers.

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index += 1) bytes[index] = raw.charCodeAt(index);
  return bytes;
}

export const decodeFloats = (text) => new Float32Array(bytesOf(text).buffer);
export const decodeBytes = (text) => bytesOf(text);
export const decodeShorts = (text) => new Uint16Array(bytesOf(text).buffer);
