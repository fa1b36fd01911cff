/**
 * QEMU over QMP and NBD. {@link createQemuSource} migrates a VM away in a thread of its own;
 * {@link openQemuSource} is the VM for an engine in this one, and {@link createQemuBackend} the destination's
 * end.
 *
 * @packageDocumentation
 */
export * from './backends/qemu/index.ts';
export type { WorkerModule, WorkerRegister, WorkerTransport } from './worker/plug-points.ts';
export { createQemuSource, type QemuMigrationOptions } from './worker/qemu-source.ts';
export { type TellsPhases, type YieldingThreads, yieldToGuests } from './worker/yield-to-guests.ts';
