import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A file system of its own that soon runs full. */
export interface SmallFileSystem {
  readonly path: string;
  [Symbol.dispose](): void;
}

/**
 * Mounts one of so many bytes, in memory; its directory is short, because the paths of unix sockets are.
 * Throws where that is not allowed.
 */
export function mountSmall(sizeBytes: number): SmallFileSystem {
  const path = mkdtempSync(join(tmpdir(), 'lh-small-'));
  const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', path]);
  if (status !== 0) {
    rmdirSync(path);
    throw new Error(`no file system could be mounted: ${stderr}`);
  }
  return {
    path,
    [Symbol.dispose]() {
      // Lazily: what a test that failed has left open must not keep it.
      spawnSync('umount', ['--lazy', path]);
      rmdirSync(path);
    },
  };
}

/** Whether this process may mount: root may, unless its container forbids it. */
export const canMount = (() => {
  try {
    mountSmall(1 << 20)[Symbol.dispose]();
    return true;
  } catch {
    return false;
  }
})();
