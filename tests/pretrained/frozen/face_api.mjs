// What face-api gives: the numbers that test_face_embedding_parity.py compares with.
//
//   npm install @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0
//   node face_api.mjs FOLDER FACES HEIGHT WIDTH OUT
//
// FOLDER has its face_recognition_model; FACES: grey uint8 images, one after the other; OUT: float32,
// 128 for each, then the gradient of the sum of the first's 128 by its own values (150x150x3, 0..255)
// in every 10th row and column.
import { readFileSync, writeFileSync } from "node:fs";
import Module, { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
// face-api asks for tfjs-node, which is built for few systems; the plain tfjs computes the same.
const resolve = Module._resolveFilename;
Module._resolveFilename = (name, ...rest) =>
  resolve(name === "@tensorflow/tfjs-node" ? "@tensorflow/tfjs" : name, ...rest);
const tf = require("@tensorflow/tfjs");
const faceapi = require("@vladmandic/face-api");

const [folder, faces, height, width, out] = process.argv.slice(2);
await tf.setBackend("cpu");
const name = `${folder}/face_recognition_model`;
const manifest = JSON.parse(readFileSync(`${name}-weights_manifest.json`));
const bytes = new Uint8Array(readFileSync(`${name}.bin`)).buffer;
const net = faceapi.nets.faceRecognitionNet;
net.loadFromWeightMap(tf.io.decodeWeights(bytes, manifest[0].weights));

const size = height * width;
const images = readFileSync(faces);
const results = [];
let slopes;
for (let start = 0; start < images.length; start += size) {
  const grey = tf.tensor(images.subarray(start, start + size), [+height, +width, 1], "int32");
  const image = tf.tile(grey, [1, 1, 3]);
  results.push(...(await net.computeFaceDescriptor(image)));
  if (start === 0) {
    const framed = new faceapi.NetInput([image]).toBatchTensor(150, true).squeeze();
    const total = (x) => net.forwardInput(new faceapi.NetInput([x])).sum();
    const gradient = tf.grad(total)(framed).stridedSlice([0, 0, 0], [150, 150, 3], [10, 10, 1]);
    slopes = await gradient.data();
  }
}
writeFileSync(out, new Uint8Array(new Float32Array([...results, ...slopes]).buffer));
