import { MigrationError } from '../../errors.ts';
import { joinChunks } from '../../util/chunks.ts';
import { NBD_PAYLOAD_BYTES_MAX } from '../nbd/nbd-protocol.ts';
import { type NbdAddress, NbdServer, type NbdServerHandler } from '../nbd/nbd-server.ts';
import type { ImageDisk } from './image-disk.ts';

/**
 * Where images are exported over NBD. A unix socket that does not exist yet, in a directory that only those
 * can enter who may have the disks; or a TCP port (0: any that is free), which is neither encrypted nor
 * authenticated: whoever reaches it has the disks.
 */
export type ImageExportAddress =
  | {
      /** The unix socket. */
      readonly path: string;
    }
  | {
      /** The address to bind. */
      readonly host: string;
      /** The port to bind. */
      readonly port: number;
    };

/**
 * Images that were handed over, served over NBD until it is closed. Each is an export of the disk's id; the
 * first one is the default export, too.
 */
export interface ImageExport {
  /** Where, with the port that was taken. */
  readonly address: ImageExportAddress;
  /**
   * Hangs up on all clients, stops listening and closes the images, which stay where they are. Idempotent.
   * Never rejects.
   */
  close(): Promise<void>;
}

/** Block sizes: anything goes, in requests as large as NBD has them. */
const BLOCK_BYTES = { minimum: 1, preferred: 4096, maximum: NBD_PAYLOAD_BYTES_MAX };

/**
 * The server of images that are being written. Clients may connect, and are refused everything until it is
 * opened.
 */
export class ImageServer {
  readonly #server: NbdServer;
  readonly #gate: { open: boolean };

  private constructor(server: NbdServer, gate: { open: boolean }) {
    this.#server = server;
    this.#gate = gate;
  }

  /** Takes the address. Rejects with `connect-failed`. */
  static async listen(address: NbdAddress, disks: readonly ImageDisk[]): Promise<ImageServer> {
    const gate = { open: false };
    const exports = disks.map((disk) => ({
      exportName: disk.id,
      sizeBytes: disk.sizeBytes,
      blockBytes: BLOCK_BYTES,
      handler: handlerOf(disk, gate),
    }));
    return new ImageServer(await NbdServer.listen({ address, exports }), gate);
  }

  /** See {@link ImageExport.address}. */
  get address(): ImageExportAddress {
    return this.#server.address;
  }

  /** The images are whole: from now on they are served. */
  open(): void {
    this.#gate.open = true;
  }

  /** Idempotent. Never rejects. */
  async close(): Promise<void> {
    await this.#server.close();
  }
}

function handlerOf(disk: ImageDisk, gate: { readonly open: boolean }): NbdServerHandler {
  const guard = (): void => {
    if (!gate.open) throw new MigrationError('invalid-state', `disk ${disk.id} is still being copied`);
  };
  return {
    async read(offset, length) {
      guard();
      return joinChunks(await disk.read(offset, length));
    },
    async write(offset, data) {
      guard();
      await disk.write(offset, [data]);
    },
    async writeZeroes(offset, length) {
      guard();
      await disk.writeZeroes(offset, length);
    },
    async trim(offset, length) {
      guard();
      await disk.discard(offset, length);
    },
    async flush() {
      guard();
      await disk.flush();
    },
    async extents(offset, length) {
      guard();
      const extents = await disk.extents(offset, length);
      return extents.map((extent) => ({ ...extent, hole: extent.zero }));
    },
    disconnected() {},
  };
}
