/** QEMU over QMP and NBD: entry `longhaul/qemu`. */

export type { FreeSpaceCheck } from '../disk-room.ts';
export { createQemuBackend, type QemuBackendOptions } from './qemu-backend.ts';
export { openQemuSource, type QemuSourceOptions } from './qemu-source.ts';
