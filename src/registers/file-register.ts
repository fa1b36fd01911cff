import { randomUUID } from 'node:crypto';
import { link, mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { Claim, ClaimValue, OwnershipRegister } from '../interfaces/register.ts';
import { checkClaim, checkVmId } from './claim-arguments.ts';
import {
  type ClaimKey,
  decodeRecord,
  directoryName,
  encodeRecord,
  parseName,
  recordName,
} from './claim-record.ts';

/**
 * How often a claim starts again because another one's tidying took its unfinished file. Each time is another
 * claim's success.
 */
const attemptsMax = 100;
/** What a record takes, about. */
const recordBytesAbout = 256;

/**
 * A register of files in a directory on this host, for one end or for several processes on the host. The
 * directory (created with its parents, mode 0700) must lie on a local file system with hard links that
 * honours fsync, and must outlive the VM's migrations: a register that was emptied or put back from a backup
 * knows nothing of what was given away since.
 *
 * `read` rejects with `register`, naming the file, if any record of the VM is damaged or a file lies there
 * that is none, and `claim` if the record in its place is; both also when the file system fails. Leftovers of
 * processes that died while writing are ignored, and removed by the next claim for the VM. Throws
 * `invalid-argument` if `directory` is not a path.
 */
export function fileRegister(directory: string): OwnershipRegister {
  if (typeof directory !== 'string' || directory === '' || directory.includes('\0')) {
    throw new MigrationError('invalid-argument', 'the directory of a file register must be a path');
  }
  const root = resolve(directory);
  const prepared = new Set<string>();
  const folderOf = (vmId: string) => join(root, directoryName(vmId));
  const makeFolder = async (folder: string) => {
    if (!prepared.has(folder)) await prepareFolder(root, folder);
    prepared.add(folder);
  };

  return {
    async claim(vmId, epoch, role, value) {
      checkClaim(vmId, epoch, role, value);
      const folder = folderOf(vmId);
      const key = { epoch, role };
      const path = join(folder, recordName(key));
      return failingAs(`claiming ${value} in ${path}`, async () => {
        await makeFolder(folder);
        await publish(path, encodeRecord(vmId, key, value));
        // Also when another process won: its record may not be durable yet, and we are about to act on it.
        await syncDirectory(folder);
        const standing = await readRecord(vmId, key, path);
        await removeLeftovers(folder);
        return standing;
      });
    },
    async prepare(vmId) {
      checkVmId(vmId);
      const folder = folderOf(vmId);
      return failingAs(`making ready for a claim in ${folder}`, async () => {
        await makeFolder(folder);
        // What else a claim does, but for the link. A leftover by its name, should it stay.
        const temporary = temporaryOf(join(folder, recordName({ epoch: 1, role: 'source' })));
        await writeDurably(temporary, new Uint8Array(recordBytesAbout));
        await syncDirectory(folder);
        await rm(temporary, { force: true });
      });
    },
    async read(vmId) {
      checkVmId(vmId);
      const folder = folderOf(vmId);
      return failingAs(`reading the claims in ${folder}`, async () => {
        const names = await namesIn(folder);
        if (names.length === 0) return [];
        // What we see may not be durable yet: whoever put it there may have died before the sync.
        await syncDirectory(folder);
        const claims = await Promise.all(names.map((name) => readNamed(vmId, folder, name)));
        return claims.filter((claim) => claim !== undefined);
      });
    },
  };
}

/**
 * Creates what is missing of the VM's directory and makes the way to it durable: not only what this call
 * created, since a process may have died between creating a directory and the sync.
 */
async function prepareFolder(root: string, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await syncDirectory(root);
  for (let path = root; path !== dirname(path); path = dirname(path)) {
    await syncDirectory(dirname(path)).catch((error: unknown) => {
      // A directory above that we may not open was not created by us.
      if (codeOf(error) !== 'EACCES') throw error;
    });
  }
}

/**
 * Puts a record under its name, whole and durable, unless one is there: link(2) fails if the name is taken,
 * so that of all processes one wins, and the name never stands for half a record.
 */
async function publish(path: string, bytes: Uint8Array): Promise<void> {
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const temporary = temporaryOf(path);
    await writeDurably(temporary, bytes);
    try {
      return await link(temporary, path);
    } catch (error) {
      if (codeOf(error) === 'EEXIST') return;
      if (codeOf(error) !== 'ENOENT') throw error;
    }
  }
  throw new MigrationError(
    'register',
    `other claims removed ${path} ${attemptsMax} times before it was complete`,
  );
}

/** A name of its own for an unfinished file. */
function temporaryOf(path: string): string {
  return `${path}.${randomUUID()}.tmp`;
}

async function writeDurably(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(bytes);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function readRecord(vmId: string, key: ClaimKey, path: string): Promise<ClaimValue> {
  const value = decodeRecord(vmId, key, await readFile(path));
  if (value === undefined) {
    throw new MigrationError('register', `the record ${path} is damaged, or is not of the VM '${vmId}'`);
  }
  return value;
}

/** The claim in a file of the VM's directory; undefined for a leftover. */
async function readNamed(vmId: string, folder: string, name: string): Promise<Claim | undefined> {
  const key = parseName(name);
  if (key === 'leftover') return undefined;
  // It may have been a record, and a claim that we do not see is how two ends come to run one guest.
  if (key === undefined)
    throw new MigrationError('register', `${join(folder, name)} is no record of this register`);
  return Object.freeze({ ...key, value: await readRecord(vmId, key, join(folder, name)) });
}

/**
 * Removes all unfinished files, our own and those of the dead. A living process that loses one this way
 * writes another (see {@link publish}). What cannot be removed does no harm, so it fails nothing.
 */
async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    if (parseName(name) === 'leftover') await rm(join(folder, name), { force: true }).catch(() => {});
  }
}

/** The names in a directory; none if it does not exist. */
async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}

/** Every failure but our own as `register`. */
async function failingAs<T>(context: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw asMigrationError(error, 'register', context);
  }
}
