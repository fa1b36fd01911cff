/** What a write costs a disk beside its bytes, in bytes that take as long: zeros too, which have no bytes. */
const writeBytes = 16 << 10;

/** How much there is to do for so many writes of so many bytes in all. */
export function workOf(bytes: number, writes: number): number {
  return bytes + writes * writeBytes;
}
