import type { Migration, MigrationReport } from '../index.ts';
import { showProgress } from './progress-display.ts';
import type { Role } from './progress-view.ts';
import type { Screen } from './screen.ts';
import type { Interruption } from './signals.ts';

/** Runs a migration with its progress shown, until it is over or the user ends it. */
export async function runShown(
  migration: Migration,
  role: Role,
  screen: Screen,
  interruption: Interruption,
): Promise<MigrationReport> {
  migration.on('phase', interruption.enter);
  const hide = showProgress(migration, role, screen);
  try {
    return await migration.run({ signal: interruption.signal });
  } finally {
    hide();
  }
}
