import { readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { createDestination, createSource, memoryRegister } from '../../dist/index.js';
import { createMemoryBackend, createMemoryVm } from '../../dist/memory.js';
import { tcp } from '../../dist/tcp.js';
import { sizes, startMeter, tell, told } from './ends.js';

/**
 * The two ends of a migration of memory, without disks and with an idle guest, over TCP.
 *
 * @typedef {object} Task What an end is told when it is started.
 * @property {number} bytes The VM's memory.
 * @property {number} [warmBytes] Of another VM that is moved first, between the same two processes.
 * @property {number} lanes The source's data connections; 0: as many as it likes.
 * @property {string} host Where the destination listens.
 * @property {number} port The same, for the source.
 * @property {import('../../dist/tcp.js').TcpPath[]} [paths] Instead, for the source: several ways to it.
 * @property {'random' | 'program'} [content] Of the memory: noise, which is the default, or Node's own program, again and again.
 * @property {import('../../dist/index.js').MigrationPolicy} [policy] Of the source.
 *
 * @typedef {object} Arrived How much has arrived at the destination, at a moment.
 * @property {number} ms Since the phase `copyMemory` began.
 * @property {number} bytes What the connections brought: headers, a thousandth, and all.
 */

/** The simulated VM's regions are of 4 GiB at most. */
const regionBytesMax = 4 * 2 ** 30;

/** The VM, the same at both ends. @param {number} bytes */
function shape(bytes) {
  const regions = Array.from({ length: Math.ceil(bytes / regionBytesMax) }, (_, index) => ({
    name: `ram${index}`,
    sizeBytes: Math.min(regionBytesMax, bytes - index * regionBytesMax),
    pageBytes: 4096,
  }));
  return { vmId: 'benchmark', regions };
}

/** @param {import('../../dist/memory.js').MemoryVm} vm */
function fillWithProgram(vm) {
  const program = readFileSync(process.execPath);
  const step = 2 ** 20;
  let from = 0;
  for (const [region, { sizeBytes }] of vm.memory.regions.entries()) {
    for (let offset = 0; offset < sizeBytes; offset += step) {
      if (from + step > program.byteLength) from = 0;
      vm.memory.write(region, offset, program.subarray(from, from + Math.min(step, sizeBytes - offset)));
      from += step;
    }
  }
}

/**
 * Collects the VM that warmed the processes. It goes back to the system now: that takes a tenth of a second of a processor for each gigabyte, and would fall on what counts. (Plain sockets leave no
 * VM, and are not collected by force: with a checksum their receiver took 2.6 times the processor's time in each of five runs after that.)
 */
async function collectGarbage() {
  setFlagsFromString('--expose-gc');
  // A turn of the event loop, so that nothing on the stack holds it.
  await setImmediate();
  runInNewContext('gc')();
}

/** Each time: is told to go; tells its times in ms, and what it cost. @param {Task} task */
export async function source(task) {
  const { lanes, host, port, paths, content = 'random' } = task;
  const transport = tcp(paths === undefined ? { connect: { host, port } } : { paths });
  const policy = { ...task.policy, ...(lanes === 0 ? {} : { connections: lanes }) };
  for (const bytes of sizes(task)) {
    await collectGarbage();
    const vm = createMemoryVm({ ...shape(bytes), fill: content === 'random' ? 'random' : 'zero', seed: 1 });
    if (content === 'program') fillWithProgram(vm);
    const migration = createSource({ vm: vm.source(), transport, register: memoryRegister(), policy });
    await told({ ready: true });
    const meter = startMeter();
    const report = await migration.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    // A program has pages of zeros.
    if (content === 'random' && report.bytes.memory !== bytes)
      throw new Error(`${report.bytes.memory} bytes were sent`);
    const { totalMs, phases, compression } = report;
    const { memory, wire } = report.bytes;
    await tell({ totalMs, copyMs: phases.copyMemory ?? Number.NaN, compression, memory, wire, ...meter() });
    vm.destroy();
  }
  await transport.close();
}

/**
 * @param {ReturnType<typeof createDestination>} migration
 * @returns {readonly Arrived[]} Which becomes longer.
 */
function watchArrivals(migration) {
  /** @type {Arrived[]} */
  const arrivals = [];
  let beganMs = Number.NaN;
  migration.on('phase', (phase) => {
    if (phase !== 'copyMemory') return;
    beganMs = performance.now();
    arrivals.push({ ms: 0, bytes: 0 });
  });
  migration.on('progress', ({ transferredBytes: bytes }) => {
    if (arrivals.length > 0) arrivals.push({ ms: performance.now() - beganMs, bytes });
  });
  return arrivals;
}

/** Each time: tells its port, and then what it cost and how the VM arrived. @param {Task} task */
export async function destination(task) {
  const transport = tcp({ listen: { host: task.host, port: 0 } });
  for (const bytes of sizes(task)) {
    await collectGarbage();
    // Touched before: what the host pays for the first touch of a page is no matter of the engine's.
    const vm = createMemoryVm({ ...shape(bytes), fill: 'random', seed: 2, paused: true });
    const backend = createMemoryBackend({ vm });
    const migration = createDestination({ backend, transport, register: memoryRegister() });
    const { port } = await transport.listening();
    await tell({ port });
    const arrivals = watchArrivals(migration);
    const meter = startMeter();
    const report = await migration.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    await tell({ ...meter(), arrivals });
    vm.destroy();
  }
  await transport.close();
}
