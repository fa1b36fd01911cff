/** Disks alone, as image files and NBD exports: entry `longhaul/images`. */

export type { FreeSpaceCheck } from '../disk-room.ts';
export { createImageBackend, type ImageBackend, type ImageBackendOptions } from './image-backend.ts';
export type { ImageExport, ImageExportAddress } from './image-export.ts';
export type { ExistingImage } from './image-file.ts';
