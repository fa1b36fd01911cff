import { dirname, resolve } from 'node:path';
import { MigrationError } from '../../errors.ts';
import type {
  DestinationVm,
  HypervisorBackend,
  PrepareOptions,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { throwIfAborted } from '../../util/promises.ts';
import { checkRoom, type DiskDemand, type FreeSpaceCheck } from '../disk-room.ts';
import { ImageDestinationVm } from './image-destination-vm.ts';
import { type ImageExport, type ImageExportAddress, ImageServer } from './image-export.ts';
import { type ExistingImage, ImageFile, type ImagePlace, lookAt } from './image-file.ts';

/** What {@link createImageBackend} needs: where the images go. */
export interface ImageBackendOptions {
  /** The file for each disk, by the disk's id. */
  readonly images?: Readonly<Record<string, string>>;
  /**
   * An existing directory for the images of all other disks, each as `ID.img`, with `%` codes for what is not
   * to be in a file's name. Default: they are refused.
   */
  readonly directory?: string;
  /**
   * What becomes of a file that is there already. `refuse`, the default. `replace`: it stays until the new
   * image is whole, and is then put away (of a symbolic link the link). `use`: it is written in place, so
   * that with the policy's `seed: 'compare'` only what differs has to come; it has to have the disk's size, or be
   * empty, and nothing else may use it meanwhile: no guest, no other process (that is not checked; this
   * process itself takes no file twice). With `use` the file stays whatever becomes of the migration, also
   * one that was made by it: an attempt that failed leaves it half written, and the next one goes on from it.
   */
  readonly existing?: ExistingImage;
  /** Serves the finished images over NBD: {@link ImageBackend.exported}. Default: not. */
  readonly export?: ImageExportAddress;
  /**
   * Whether a migration is refused (`disk-full`) for which a file system has not enough free. Default
   * `check`; `ignore` suits one that compresses.
   */
  readonly freeSpace?: FreeSpaceCheck;
}

/**
 * Takes disks that move alone, and makes a file of each. From `prepare()` until they are given up, handed
 * over, or no longer exported, the files and the export's address are taken: another `prepare()` for one of
 * the files rejects with `incompatible`, and one with the same address (other than TCP at port 0) with
 * `connect-failed`.
 */
export interface ImageBackend extends HypervisorBackend {
  /** The files of the migration that was handed over last, absolute, by the disks' ids. Empty before. */
  readonly images: ReadonlyMap<string, string>;
  /**
   * Its export. Undefined before, and if none was asked for. It is served until it is closed, which is the
   * caller's to do.
   */
  readonly exported: ImageExport | undefined;
}

/**
 * A destination for disks alone (the policy's `memory: 'none'`): each disk that is copied becomes a raw
 * image, sparse where it is zero. It is written as `FILE.XXXXXXXX.partial`, with eight hexadecimal digits of
 * the attempt's own, and gets its name, with file and directory made durable, once all of them are there.
 * What fails before removes it, unless it has replaced another one by then (and see
 * {@link ImageBackendOptions.existing}); a process that dies leaves its partial files, and nothing removes
 * them. Files are made with mode 0600. Throws `invalid-argument` if neither files nor a directory are given.
 *
 * `prepare()` rejects with `unsupported` for a whole VM, `incompatible` with every reason why an image cannot
 * be made, or for a file that this process is writing already, `disk-full` if it is sure that there is no
 * room, `disk-write` if a file cannot be made, and `connect-failed` if the export's address cannot be had. A
 * migration at a time, where there is an export: it is one.
 */
export function createImageBackend(options: ImageBackendOptions): ImageBackend {
  if (options.images === undefined && options.directory === undefined) {
    throw new MigrationError('invalid-argument', 'neither images nor a directory for them are given');
  }
  return new Images(options);
}

class Images implements ImageBackend {
  readonly name = 'images';
  readonly #options: ImageBackendOptions;
  #images: ReadonlyMap<string, string> = new Map();
  #exported: ImageExport | undefined;

  constructor(options: ImageBackendOptions) {
    this.#options = options;
  }

  get images(): ReadonlyMap<string, string> {
    return this.#images;
  }

  get exported(): ImageExport | undefined {
    return this.#exported;
  }

  async prepare(
    description: VmDescription,
    { signal, shared, memory }: PrepareOptions = {},
  ): Promise<DestinationVm> {
    throwIfAborted(signal);
    if (memory !== 'none') {
      throw new MigrationError('unsupported', 'images take disks alone, and this is a whole VM');
    }
    const places = await this.#places(description, shared ?? new Set());
    if (this.#options.freeSpace !== 'ignore') await checkRoom(places.map(demandOf));
    const files: ImageFile[] = [];
    try {
      for (const place of places) {
        throwIfAborted(signal);
        files.push(await ImageFile.open(place));
      }
      const { export: address } = this.#options;
      const server =
        address === undefined || files.length === 0
          ? undefined
          : await ImageServer.listen(
              address,
              files.map(({ disk }) => disk),
            );
      return new ImageDestinationVm(files, server, () => this.#handedOver(files, server));
    } catch (error) {
      for (const file of files) await file.undo();
      throw error;
    }
  }

  /** Where the images go. Rejects with `incompatible`, and has changed nothing. */
  async #places({ disks }: VmDescription, shared: ReadonlySet<string>): Promise<readonly ImagePlace[]> {
    const found: string[] = [];
    const places: ImagePlace[] = [];
    for (const disk of disks) {
      if (shared.has(disk.id)) continue;
      const path = this.#pathOf(disk.id, found);
      if (path === undefined) continue;
      places.push(await lookAt(disk, path, this.#options.existing ?? 'refuse', found));
    }
    if (found.length > 0) {
      throw new MigrationError('incompatible', `the disks cannot be taken here: ${found.join('; ')}`);
    }
    return places;
  }

  #pathOf(id: string, found: string[]): string | undefined {
    const { images = {}, directory } = this.#options;
    const path = Object.hasOwn(images, id) ? images[id] : undefined;
    if (path !== undefined) return resolve(path);
    if (directory === undefined) {
      found.push(`disk ${id}: there is no file for it here`);
      return undefined;
    }
    try {
      return resolve(directory, `${encodeURIComponent(id)}.img`);
    } catch {
      found.push(`disk ${id}: that is no text, and cannot be a file's name`);
      return undefined;
    }
  }

  #handedOver(files: readonly ImageFile[], server: ImageServer | undefined): void {
    this.#images = new Map(files.map(({ disk, path }) => [disk.id, path]));
    this.#exported = server && {
      address: server.address,
      async close() {
        await server.close();
        await Promise.all(files.map((file) => file.close()));
      },
    };
  }
}

/** An image that is made anew is not there yet: its directory stands for it. */
function demandOf({ disk, path, used, allocatedBytes }: ImagePlace): DiskDemand {
  return {
    id: disk.id,
    path: used ? path : dirname(path),
    neededBytes: disk.allocatedBytes,
    allocatedBytes,
  };
}
