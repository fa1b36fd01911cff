import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { type HostBlock, isMapped, parseHostBlocks } from './ram-map.ts';

/** What `/proc` shows of QEMU's memory: the guest's RAM, as QEMU itself reads it. */
export class ProcessMemory {
  readonly #file: number;
  readonly #blocks: ReadonlyMap<string, HostBlock>;
  #closed = false;

  private constructor(file: number, blocks: ReadonlyMap<string, HostBlock>) {
    this.#file = file;
    this.#blocks = blocks;
  }

  /**
   * Opens it: of the thread of QEMU's with that id, whose blocks lie where the table of `x-query-ramblock` says. Undefined where that
   * is not to be had: for want of rights, or because the id means something else on this host, or QEMU does not say where its blocks are.
   */
  static open(threadId: number, table: string): ProcessMemory | undefined {
    const blocks = parseHostBlocks(table);
    if (blocks.length === 0) return undefined;
    let file: number | undefined;
    try {
      // In another process nothing would be mapped there: such addresses are drawn at random.
      const maps = readFileSync(`/proc/${threadId}/maps`, 'latin1');
      if (!blocks.every((block) => isMapped(maps, block))) return undefined;
      file = openSync(`/proc/${threadId}/mem`, 'r');
      const opened = new ProcessMemory(file, new Map(blocks.map((block) => [block.name, block])));
      // Some kernels refuse only here.
      const [first] = blocks;
      if (first !== undefined && opened.read(first.name, 0, Math.min(4096, first.length)) !== undefined)
        return opened;
    } catch {
      // There is another way.
    }
    if (file !== undefined) closeSync(file);
    return undefined;
  }

  /** A copy of a range of a block; undefined if it cannot be read. It takes some microseconds, so nothing is gained by waiting for it elsewhere. */
  read(block: string, offset: number, length: number): Uint8Array | undefined {
    const place = this.#blocks.get(block);
    if (this.#closed || place === undefined || offset < 0 || offset + length > place.length) return undefined;
    const bytes = Buffer.allocUnsafeSlow(length);
    try {
      for (let done = 0; done < length; ) {
        const read = readSync(this.#file, bytes, done, length - done, place.address + offset + done);
        if (read === 0) return undefined;
        done += read;
      }
    } catch {
      return undefined;
    }
    return bytes;
  }

  /** Idempotent. */
  close(): void {
    if (!this.#closed) closeSync(this.#file);
    this.#closed = true;
  }
}
