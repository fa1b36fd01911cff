import type { Migration, MigrationReport } from '../index.ts';
import { showProgress } from './progress-display.ts';
import type { Role } from './progress-view.ts';
import type { Screen } from './screen.ts';
import type { Interruption } from './signals.ts';
import { formatBytes, formatMs, printable } from './units.ts';

/** Runs a migration, or does `run` with it, with its progress shown, until it is over or the user ends it. */
export async function runShown(
  migration: Migration,
  role: Role,
  screen: Screen,
  interruption: Interruption,
  run: Migration['run'] = (options) => migration.run(options),
): Promise<MigrationReport> {
  migration.on('phase', interruption.enter);
  migration.on('retreat', ({ attempt, error, stunnedMs }) => {
    const why = `${printable(error.message)} (${error.code})`;
    const stood = role === 'source' ? `, after it stood still for ${formatMs(stunnedMs)}` : '';
    screen.log(`switchover ${attempt} failed: ${why}; the guest runs on at the source${stood}`);
  });
  migration.on('outage', ({ durationMs, resentBytes }) => {
    screen.log(`the link was gone for ${formatMs(durationMs)}; ${formatBytes(resentBytes)} are sent again`);
  });
  migration.on('warning', ({ message }) => screen.log(`warning: ${printable(message)}`));
  const hide = showProgress(migration, role, screen);
  try {
    return await run({ signal: interruption.signal });
  } finally {
    hide();
  }
}
