import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MigrationError } from '../../errors.ts';

/** What the kernel allows in a unix socket's address, less the final zero. */
const SOCKET_PATH_BYTES_MAX = 107;
/** The longest name that sockets get in it, with some room. */
const SOCKET_NAME_BYTES_MAX = 24;

/** A new directory that only we (and root) can enter, for sockets over which a guest's memory and disks go. */
export class PrivateDirectory {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /** Makes it within `parent` (default: the system's directory for temporary files). Rejects with `invalid-argument`. */
  static async create(parent: string = tmpdir()): Promise<PrivateDirectory> {
    const prefix = join(parent, 'longhaul-');
    // Six characters are added by mkdtemp, and a slash.
    if (Buffer.byteLength(prefix) + 7 + SOCKET_NAME_BYTES_MAX > SOCKET_PATH_BYTES_MAX) {
      throw new MigrationError('invalid-argument', `the path ${parent} is too long for sockets in it`);
    }
    try {
      // mkdtemp makes it with mode 0700.
      return new PrivateDirectory(await mkdtemp(prefix));
    } catch (error) {
      throw new MigrationError('invalid-argument', `no directory can be made in ${parent}`, { cause: error });
    }
  }

  /** Where a socket of this name lies. */
  socket(name: string): string {
    return join(this.path, name);
  }

  /** Removes it and what is in it. Idempotent. */
  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}
