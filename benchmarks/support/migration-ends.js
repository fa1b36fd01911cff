import { createDestination, createSource, memoryRegister } from '../../dist/index.js';
import { createMemoryBackend, createMemoryVm } from '../../dist/memory.js';
import { tcp } from '../../dist/tcp.js';
import { sizes, startMeter, tell, told } from './ends.js';

/**
 * The two ends of a migration of random memory, without disks and with an idle guest, over TCP.
 *
 * @typedef {object} Task What an end is told when it is started.
 * @property {number} bytes The VM's memory.
 * @property {number} [warmBytes] Of another VM that is moved first, between the same two processes.
 * @property {number} lanes The source's data connections; 0: as many as it likes.
 * @property {string} host Where the destination listens.
 * @property {number} port The same, for the source.
 * @property {import('../../dist/tcp.js').TcpPath[]} [paths] Instead, for the source: several ways to it.
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

/** Each time: is told to go; tells its times in ms, and what it cost. @param {Task} task */
export async function source(task) {
  const { lanes, host, port, paths } = task;
  const transport = tcp(paths === undefined ? { connect: { host, port } } : { paths });
  const policy = lanes === 0 ? {} : { connections: lanes };
  for (const bytes of sizes(task)) {
    const vm = createMemoryVm({ ...shape(bytes), fill: 'random', seed: 1 });
    const migration = createSource({ vm: vm.source(), transport, register: memoryRegister(), policy });
    await told({ ready: true });
    const meter = startMeter();
    const report = await migration.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    if (report.bytes.memory !== bytes) throw new Error(`${report.bytes.memory} bytes were sent`);
    await tell({ totalMs: report.totalMs, copyMs: report.phases.copyMemory ?? Number.NaN, ...meter() });
    vm.destroy();
  }
  await transport.close();
}

/** Each time: tells its port, and then what it cost. @param {Task} task */
export async function destination(task) {
  const transport = tcp({ listen: { host: task.host, port: 0 } });
  for (const bytes of sizes(task)) {
    // Touched before: what the host pays for the first touch of a page is no matter of the engine's.
    const vm = createMemoryVm({ ...shape(bytes), fill: 'random', seed: 2, paused: true });
    const backend = createMemoryBackend({ vm });
    const migration = createDestination({ backend, transport, register: memoryRegister() });
    const { port } = await transport.listening();
    await tell({ port });
    const meter = startMeter();
    const report = await migration.run();
    if (report.outcome !== 'completed') throw report.error ?? new Error(report.outcome);
    await tell(meter());
    vm.destroy();
  }
  await transport.close();
}
