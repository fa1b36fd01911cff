/** How a suite makes the guest do something: the small part that only whoever tests a backend can provide. */
import type { ByteRange } from '../../interfaces/content.ts';

/** What the guest does to one of its disks. All of it is done inside the guest, or as if it were. */
export interface GuestDisk {
  /**
   * Where on the disk nobody but these calls writes: at least 256 KiB, whole blocks of 4096 bytes. Elsewhere
   * the guest may do what it likes.
   */
  readonly scratch: ByteRange;
  /**
   * Writes `length` bytes, each of the value `fill`, 1 to 255; whole blocks of the disk. Resolves when the
   * guest was told that it is done, rejects when it was told that it failed.
   */
  write(offset: number, length: number, fill: number): Promise<void>;
  /** Makes a range of whole blocks zero, otherwise as `write`. Left out if it cannot be asked for. */
  zero?(offset: number, length: number): Promise<void>;
  /**
   * Discards a range of whole blocks, otherwise as `write`. What it reads as afterwards is the disk's affair. Left out if it cannot be
   * asked for.
   */
  discard?(offset: number, length: number): Promise<void>;
  /**
   * Writes as `write`, but on the medium it fails. Resolves when the guest was told. Left out if it cannot be
   * asked for.
   */
  failWrite?(offset: number, length: number): Promise<void>;
  /** Whether several calls can be under way at once. If not, a call waits until the one before is done. */
  readonly concurrent: boolean;
}

/** What the guest does to its memory. */
export interface GuestMemoryControl {
  /**
   * The running guest changes some of its memory, to something that was not there before. Resolves when it
   * has.
   */
  dirty(): Promise<void>;
  /** The running guest writes these very bytes. Left out if they cannot be placed. */
  write?(region: number, offset: number, bytes: Uint8Array): Promise<void>;
  /** What a range of a guest holds that stands still; undefined if the region cannot be looked into. */
  read(region: number, offset: number, length: number): Promise<Uint8Array | undefined>;
}

/** What happens to the VM that no migration asks for. Each is left out if it cannot be made to happen. */
export interface VmControl {
  /** Somebody else stops the guest. */
  pause?(): Promise<void>;
  /** Somebody else runs it on; there if `pause` is. */
  run?(): Promise<void>;
  /** The guest powers off. */
  powerOff?(): Promise<void>;
  /** The hypervisor dies. */
  kill?(): Promise<void>;
}
