"""Training VideoAnydoor: samples from clips and pictures, losses, one readable loop. A leaf: nothing else imports it."""
