import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, lstat, open, realpath, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { MigrationError, messageOf } from '../../errors.ts';
import type { DiskDescription } from '../../interfaces/hypervisor.ts';
import { errnoOf, fileError } from './file-errors.ts';
import { ImageDisk } from './image-disk.ts';

/** What becomes of a file that is there already: see `ImageBackendOptions.existing`. */
export type ExistingImage = 'refuse' | 'replace' | 'use';

/** Where an image is to be, and what is there. */
export interface ImagePlace {
  readonly disk: DiskDescription;
  readonly path: string;
  /** What it is written as: the path, where files are used; else a name of this attempt's own beside it. */
  readonly name: string;
  readonly existing: ExistingImage;
  /** Whether there is a file that is used. */
  readonly used: boolean;
  /** What that takes up already, in bytes. */
  readonly allocatedBytes: number;
}

/**
 * Looks at a place, and changes nothing. Every reason for which an image cannot be made there goes to
 * `found`. Never rejects.
 */
export async function lookAt(
  disk: DiskDescription,
  path: string,
  existing: ExistingImage,
  found: string[],
): Promise<ImagePlace> {
  const name = existing === 'use' ? path : `${path}.${randomBytes(4).toString('hex')}.partial`;
  const nothing: ImagePlace = { disk, path, name, existing, used: false, allocatedBytes: 0 };
  const refuse = (why: string): ImagePlace => {
    found.push(`disk ${disk.id}: ${why}`);
    return nothing;
  };
  try {
    const directory = dirname(path);
    const above = await ifThere(stat(directory));
    if (above?.isDirectory() !== true) return refuse(`${directory} is no directory`);
    const entry = await ifThere(lstat(path));
    // Only to learn that there can be such a name: it may be too long, when the path is not.
    await ifThere(lstat(name));
    if (entry === undefined) return nothing;
    if (existing === 'refuse') return refuse(`${path} is there already`);
    const here = entry.isSymbolicLink() ? await ifThere(stat(path)) : entry;
    if (here?.isFile() !== true) return refuse(`${path} is not a file`);
    if (existing === 'replace') return nothing;
    if (here.size !== 0 && here.size !== disk.sizeBytes) {
      return refuse(`${path} has ${here.size} bytes, and ${disk.sizeBytes} are needed`);
    }
    return { ...nothing, used: true, allocatedBytes: 512 * here.blocks };
  } catch (error) {
    return refuse(messageOf(error));
  }
}

/** Undefined where there is nothing. */
async function ifThere<T>(looking: Promise<T>): Promise<T | undefined> {
  return await looking.catch((error) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  });
}

/**
 * The files that are being written in this process, each by its path, without links in its directory, and by
 * its inode.
 */
const claimed = new Set<string>();

/** What one image has of {@link claimed}. */
class Claims {
  readonly #keys: string[] = [];

  add(key: string, place: ImagePlace): void {
    if (claimed.has(key)) {
      const why = `${place.path} is taken already, by another disk or migration`;
      throw new MigrationError('incompatible', `disk ${place.disk.id}: ${why}`);
    }
    claimed.add(key);
    this.#keys.push(key);
  }

  /** Idempotent: what another one has claimed since is left alone. */
  release(): void {
    for (const key of this.#keys.splice(0)) claimed.delete(key);
  }
}

/**
 * An image that is being written: in place where one that is there is used, else beside its place, until it
 * is handed over.
 */
export class ImageFile {
  readonly disk: ImageDisk;
  readonly path: string;
  readonly #place: ImagePlace;
  readonly #handle: FileHandle;
  readonly #claims: Claims;
  /** Whether it was there, and empty. */
  readonly #wasEmpty: boolean;
  /** Under which name it is there, and would have to be removed. */
  #removable: string | undefined;

  private constructor(place: ImagePlace, handle: FileHandle, claims: Claims, sizeBytes: number) {
    this.path = place.path;
    this.disk = new ImageDisk(handle, place.disk, sizeBytes === 0 ? 'zeros' : 'anything');
    this.#place = place;
    this.#handle = handle;
    this.#claims = claims;
    this.#wasEmpty = place.used && sizeBytes === 0;
    if (place.existing !== 'use') this.#removable = place.name;
  }

  /**
   * Makes it, or opens what is there. Rejects with `incompatible` if the file is being written in this
   * process already, else with `disk-write` or `disk-full`, and has changed nothing then.
   */
  static async open(place: ImagePlace): Promise<ImageFile> {
    const { disk, path, name, used } = place;
    const { O_RDWR, O_CREAT, O_EXCL } = constants;
    const claims = new Claims();
    let handle: FileHandle | undefined;
    try {
      claims.add(join(await realpath(dirname(path)), basename(path)), place);
      // What is not used is made here: only then is it ours to remove.
      handle = await open(name, used ? O_RDWR : O_RDWR | O_CREAT | O_EXCL, 0o600);
      const { size, dev, ino } = await handle.stat({ bigint: true });
      claims.add(`${dev}:${ino}`, place);
      const file = new ImageFile(place, handle, claims, Number(size));
      if (size === 0n) await handle.truncate(disk.sizeBytes);
      return file;
    } catch (error) {
      await handle?.close().catch(() => {});
      if (handle !== undefined && !used) await removeIfThere(name).catch(() => {});
      claims.release();
      throw fileError(error, 'disk-write', `the image of disk ${disk.id}`);
    }
  }

  /** Makes all of it durable, also that it has this size. */
  async sync(): Promise<void> {
    await this.#guard(() => this.#handle.sync());
  }

  /** Gives it its name, durably. What has replaced another one stays from then on: that one is gone. */
  async putInPlace(): Promise<void> {
    const { path, name, existing } = this.#place;
    await this.#guard(async () => {
      if (existing === 'replace') {
        await rename(name, path);
        this.#removable = undefined;
      } else if (existing === 'refuse') {
        await renameToNew(name, path);
        this.#removable = path;
      }
      await syncDirectory(dirname(path));
    });
  }

  /** It stays from now on. */
  keep(): void {
    this.#removable = undefined;
  }

  /** Closes it: others may have the file. Idempotent. Never rejects. */
  async close(): Promise<void> {
    await this.#handle.close().catch(() => {});
    this.#claims.release();
  }

  /** Nothing was written: also what is used in place is as it was before. Never rejects. */
  async undo(): Promise<void> {
    if (this.#wasEmpty) await this.#handle.truncate(0).catch(() => {});
    if (!this.#place.used) this.#removable = this.#place.name;
    await this.discard();
  }

  /** Closes it, and removes it unless it was there before, or is to stay. Never rejects. */
  async discard(): Promise<void> {
    if (this.#removable !== undefined) await removeIfThere(this.#removable).catch(() => {});
    this.#removable = undefined;
    await this.close();
  }

  async #guard(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      throw fileError(error, 'disk-write', `the image of disk ${this.disk.id}`);
    }
  }
}

async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch((error) => {
    if (errnoOf(error) !== 'ENOENT') throw error;
  });
}

/** Renames, unless there is something of the new name by now: `rename()` would put that away. */
async function renameToNew(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
    await unlink(from);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EEXIST') throw new MigrationError('disk-write', `${to} is there by now`, { cause: error });
    // No such links on this file system, or not for this user: the look before has to do.
    if (errno !== 'EPERM' && errno !== 'ENOTSUP' && errno !== 'EOPNOTSUPP' && errno !== 'ENOSYS') throw error;
    if ((await ifThere(lstat(to))) !== undefined)
      throw new MigrationError('disk-write', `${to} is there by now`);
    await rename(from, to);
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
