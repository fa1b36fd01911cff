import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import * as tls from 'node:tls';
import { sizes, startMeter, tell, told } from './ends.js';

/**
 * What the engine and its channel are measured beside: one plain socket of Node's, written to as its documentation says, in pieces of 256 KiB.
 *
 * @typedef {import('./migration-ends.js').Task & { credentials?: Credentials }} Task
 * @typedef {{ cert: string, key: string, ca: string }} Credentials Of both ends: then it is TLS 1.3, mutual.
 *
 * @typedef {(data: Uint8Array, previous: number) => number} Checksum
 */

/** Of each write; what is sent is a multiple. */
export const writeBytes = 256 * 1024;

/** No checksum. @type {Checksum} */
const none = () => 0;

/**
 * Each time: is told to go; tells its time in ms, from the first write until the receiver has said that it has the last byte, and what it cost.
 *
 * @param {Task} task
 * @param {Buffer} [content] What is written, over and over: a multiple of 256 KiB.
 * @param {Checksum} [checksum] Of all that is written, write by write.
 */
export async function plainSender(task, content = Buffer.alloc(writeBytes, 0xa5), checksum = none) {
  const { host, port, credentials } = task;
  for (const bytes of sizes(task)) {
    const socket =
      credentials === undefined
        ? connect({ host, port, noDelay: true })
        : tls.connect({ host, port, noDelay: true, minVersion: 'TLSv1.3', ...credentials });
    await once(socket, credentials === undefined ? 'connect' : 'secureConnect');
    await told({ ready: true });
    const meter = startMeter();
    const start = performance.now();
    let sum = 0;
    for (let sent = 0; sent < bytes; sent += writeBytes) {
      const at = sent % content.byteLength;
      const piece = content.subarray(at, at + writeBytes);
      sum = checksum(piece, sum);
      if (!socket.write(piece)) await once(socket, 'drain');
    }
    socket.end();
    await once(socket, 'data');
    const ms = performance.now() - start;
    await tell({ ms, sum, ...meter() });
  }
}

/** Each time: tells its port, and then what it cost. @param {Task} task @param {Checksum} [checksum] Of all that arrives. */
export async function plainReceiver(task, checksum = none) {
  const { host, credentials } = task;
  const options = { allowHalfOpen: true, noDelay: true };
  const server =
    credentials === undefined
      ? createServer(options)
      : tls.createServer({ ...options, ...credentials, minVersion: 'TLSv1.3', requestCert: true });
  server.listen({ host, port: 0 });
  await once(server, 'listening');
  const address = server.address();
  const port = address !== null && typeof address === 'object' ? address.port : 0;
  for (const bytes of sizes(task)) {
    const arrival = once(server, credentials === undefined ? 'connection' : 'secureConnection');
    await tell({ port });
    const [socket] = await arrival;
    const meter = startMeter();
    let received = 0;
    let sum = 0;
    socket.on('data', (/** @type {Buffer} */ chunk) => {
      received += chunk.byteLength;
      sum = checksum(chunk, sum);
    });
    await once(socket, 'end');
    socket.end('x');
    if (received !== bytes) throw new Error(`${received} bytes arrived`);
    await tell({ sum, ...meter() });
  }
  server.close();
}
