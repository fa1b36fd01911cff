const byteUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes for people, three digits: `512 B`, `48.2 MiB`, `1.05 GiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  // 1023.5 and more would be written as 1024.
  while (Math.round(value) >= 1024 && unit < byteUnits.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : threeDigits(value)} ${byteUnits[unit]}`;
}

/** Bytes a second for people: `48.2 MiB/s`. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

/** Milliseconds for people: `2.1 ms`, `262 ms`, `7.42 s`, `2 min 5 s`, `3 h 12 min`. */
export function formatMs(ms: number): string {
  if (Math.round(ms) < 1000) return ms === 0 ? '0 ms' : `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 59_950) return `${threeDigits(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** How long something takes, from at least to at most: `7.42 to 12.1 s`, `48 s to 1 min 5 s`. */
export function formatInterval({
  lowMs,
  highMs,
}: {
  readonly lowMs: number;
  readonly highMs: number;
}): string {
  const [low, high] = [formatMs(lowMs), formatMs(highMs)];
  if (low === high) return high;
  const [, lowUnit] = low.split(' ');
  const isShort = low.split(' ').length === 2 && high.split(' ').length === 2 && high.endsWith(` ${lowUnit}`);
  return `${isShort ? low.split(' ')[0] : low} to ${high}`;
}

/** A number of things: `1,234`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString('en-US');
}

/**
 * Text from elsewhere (a peer's reason, a disk's name) as one line that cannot steer a terminal: every
 * control and formatting character becomes a question mark, and line breaks a space.
 */
export function printable(text: string): string {
  return text.replaceAll(/\s*[\r\n]+\s*/g, ' ').replaceAll(/[\p{C}\u2028\u2029]/gu, '?');
}

function threeDigits(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}
