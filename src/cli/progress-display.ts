import type { Migration, Phase, Progress } from '../index.ts';
import { advance, enter, initialProgress, type ProgressState } from './progress-state.ts';
import { phaseName, type Role, renderPlainProgress, renderProgress } from './progress-view.ts';
import type { Screen } from './screen.ts';

/** Between two lines of progress, where nothing can be redrawn. */
const plainMs = 1000;

/**
 * Shows a migration's progress while it runs: bars that are redrawn in place, or a line for each phase, and
 * one about every second while bytes move. Returns how to stop; what is shown then stays.
 */
export function showProgress(migration: Migration, role: Role, screen: Screen): () => void {
  let state: ProgressState = initialProgress;
  let told: Pick<ProgressState, 'elapsedMs' | 'transferredBytes'> = state;

  const show = () => {
    if (screen.interactive) {
      screen.draw(renderProgress(state, { role, color: screen.color, ...screen.size }));
    } else if (
      state.elapsedMs - told.elapsedMs >= plainMs &&
      state.transferredBytes > told.transferredBytes
    ) {
      told = state;
      screen.log(renderPlainProgress(state, role));
    }
  };
  const onPhase = (phase: Phase) => {
    state = enter(state, phase);
    if (!screen.interactive && phase !== 'done') screen.log(phaseName(phase, role));
    show();
  };
  const onProgress = (progress: Progress) => {
    state = advance(state, progress);
    show();
  };
  migration.on('phase', onPhase).on('progress', onProgress);
  return () => {
    migration.off('phase', onPhase).off('progress', onProgress);
    screen.keep();
  };
}
