import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Chunks } from './chunks.ts';

/** HMAC-SHA-256 (RFC 2104) of the chunks, one after the other: 32 bytes. With an empty secret anybody can make it. */
export function hmacSha256(secret: Uint8Array, chunks: Chunks): Uint8Array {
  const hmac = createHmac('sha256', secret);
  for (const chunk of chunks) hmac.update(chunk);
  return new Uint8Array(hmac.digest());
}

/** Whether both are the same; how long it takes says nothing of where they differ. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && timingSafeEqual(a, b);
}
