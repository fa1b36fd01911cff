/**
 * Compresses content and brings it back. Its work is done beside the caller's thread, which goes on meanwhile.
 */
export interface Codec {
  /**
   * What it is called, at both ends: 1 to 32 characters. Ends that have a codec of the same name understand each other: `zstd` is a Zstandard frame
   * (RFC 8878), `lz4` an LZ4 block behind its uncompressed length in four bytes, the lowest first.
   */
  readonly name: string;
  /** How many calls may be under way at once: 1 or more. */
  readonly callsMax: number;
  /** The content, compressed, in memory of its own. `data`, 1 byte to 1 MiB, must not change before that is there. Rejects if it cannot. */
  compress(data: Uint8Array): Promise<Uint8Array>;
  /**
   * What was compressed, which is `length` bytes, 1 to 1 MiB, in memory of its own. Rejects for anything that does not come to just that, a hostile
   * peer's too, and allocates no more for it.
   */
  decompress(data: Uint8Array, length: number): Promise<Uint8Array>;
}
