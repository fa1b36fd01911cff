import type { Socket } from 'node:net';
import { nextTick } from 'node:process';

/**
 * Gathers everything that is written to the socket until the current turn of the event loop is over into one
 * system call. May be called before each write; only the first call of a turn does anything.
 */
export function corkForThisTick(socket: Socket): void {
  if (socket.writableCorked > 0) return;
  socket.cork();
  nextTick(() => socket.uncork());
}
