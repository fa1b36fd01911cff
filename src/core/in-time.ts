import type { Channel } from '../channel/channel.ts';
import type { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import { withTimeout } from '../util/promises.ts';

/**
 * What the peer is to say within `limitMs`, or a rejection with `late`. Where the link is gone when the time is over, it begins anew; how long that may last is the channel's to
 * know.
 */
export async function inTime<T>(
  environment: Environment,
  channel: Channel,
  limitMs: number,
  word: Promise<T>,
  late: MigrationError,
): Promise<T> {
  for (;;) {
    try {
      return await withTimeout(environment, limitMs, word, () => late);
    } catch (error) {
      if (error !== late || !channel.isCut) throw error;
    }
  }
}
