// The points of a map by WebGL 2, on a graphics card: the same as CanvasDots, for a million of them.

const VERTEX = `#version 300 es
in vec2 place;
in uint tint;
in uint lit;
uniform vec2 middle;
uniform vec2 reach;   // of half the view, in places
uniform float size;   // pixels across
uniform vec3 colours[16];
uniform bool choosing;
uniform float pass;   // with choosing: 0 for those in the background, 1 for those in front
out vec4 ink;
void main() {
  bool front = !choosing || lit == 1u;
  gl_Position = choosing && (front ? 1.0 : 0.0) != pass
    ? vec4(2.0, 2.0, 0.0, 1.0)
    : vec4((place.x - middle.x) / reach.x, (middle.y - place.y) / reach.y, 0.0, 1.0);
  gl_PointSize = size + 1.0;
  ink = front ? vec4(colours[tint], 1.0) : vec4(colours[0], 0.3);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 ink;
uniform float size;
uniform vec3 ground;
out vec4 colour;
void main() {
  float far = distance(gl_PointCoord, vec2(0.5)) * (size + 1.0);
  float radius = size / 2.0;
  float cover = clamp(radius + 0.5 - far, 0.0, 1.0);
  if (cover <= 0.0) discard;
  float rim = radius > 3.0 ? clamp(far - radius + 1.5, 0.0, 1.0) : 0.0;
  colour = vec4(mix(ink.rgb, ground, rim * 0.8), ink.a * cover);
}`;

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

export class WebglDots {
  // Throws where the browser has no WebGL 2, or only the processor to draw it with: then a plain
  // canvas is faster (benchmarks/page_map.py). tints : as in CanvasDots.
  constructor(canvas, places, tints) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("there is no WebGL 2");
    if (SOFTWARE.test(rendererOf(gl))) {
      gl.getExtension("WEBGL_lose_context")?.loseContext();
      throw new Error("there is no graphics card");
    }
    Object.assign(this, { canvas, places, tints, gl, lit: null });
    // After a driver starts anew everything has to be handed over again.
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.begin(); this.light(this.lit); this.restored?.(); });
    this.begin();
  }

  begin() {
    const { gl, places, tints } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error("the map's shaders cannot be used here");
    gl.useProgram(program);
    this.at = Object.fromEntries(["middle", "reach", "size", "colours", "ground", "choosing", "pass"].map((name) => [name, gl.getUniformLocation(program, name)]));
    const buffer = (name, data) => {
      const made = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, made);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      const spot = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(spot);
      if (name === "place") gl.vertexAttribPointer(spot, 2, gl.UNSIGNED_SHORT, true, 0, 0);
      else gl.vertexAttribIPointer(spot, 1, gl.UNSIGNED_BYTE, 0, 0);
      return made;
    };
    buffer("place", places.steps);
    buffer("tint", tints);
    this.litBuffer = buffer("lit", new Uint8Array(places.count));
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  }

  light(lit) {
    this.lit = lit;
    if (!lit) return;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.litBuffer);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, lit);
  }

  paint(camera, ratio, { ground, none, colours }) {
    const { gl, at } = this;
    if (gl.isContextLost()) return;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(...shares(ground), 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(at.middle, camera.x, camera.y);
    gl.uniform2f(at.reach, camera.width / 2 / camera.scale, camera.height / 2 / camera.scale);
    gl.uniform1f(at.size, 2 * camera.radius() * ratio);
    gl.uniform3fv(at.colours, [none, ...colours].flatMap(shares));
    gl.uniform3f(at.ground, ...shares(ground));
    gl.uniform1i(at.choosing, this.lit ? 1 : 0);
    for (const pass of this.lit ? [0, 1] : [0]) {
      gl.uniform1f(at.pass, pass);
      gl.drawArrays(gl.POINTS, 0, this.places.count);
    }
  }
}

// What draws, as the browser calls it; some tell only by the extension.
function rendererOf(gl) {
  const named = String(gl.getParameter(gl.RENDERER));
  if (named !== "WebKit WebGL") return named;
  const told = gl.getExtension("WEBGL_debug_renderer_info");
  return told ? String(gl.getParameter(told.UNMASKED_RENDERER_WEBGL)) : named;
}

const shares = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
