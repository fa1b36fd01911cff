import { MigrationError, type Phase } from '../index.ts';

/** Where signals come from: `process` is one. */
export interface SignalSource {
  on(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
  off(signal: NodeJS.Signals, listener: (signal: NodeJS.Signals) => void): unknown;
}

/** An abort signal that the user's signals trip. */
export interface Interruption {
  readonly signal: AbortSignal;
  /** How far the work has come, for what is said when a signal arrives. */
  enter(phase: Phase): void;
  /** Signals do again what they do by default. */
  close(): void;
}

const handled = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * The first SIGINT, SIGTERM or SIGHUP (the terminal is gone) aborts the work, which ends as cleanly as it can; later ones change nothing: a
 * process that died in the middle of putting things back would leave more behind. Each is answered with a
 * line to `say`; `outlook` is what to expect of the first.
 */
export function interruptible(
  source: SignalSource,
  outlook: string,
  say: (line: string) => void,
): Interruption {
  const controller = new AbortController();
  let phase: Phase = 'idle';
  const onSignal = (name: NodeJS.Signals) => {
    say(`${name}: ${answer(phase, controller.signal.aborted ? endingAlready : `ending; ${outlook}`)}`);
    controller.abort(new MigrationError('aborted', `interrupted by ${name}`));
  };
  for (const name of handled) source.on(name, onSignal);
  return {
    signal: controller.signal,
    enter: (entered) => {
      phase = entered;
    },
    close: () => {
      for (const name of handled) source.off(name, onSignal);
    },
  };
}

const endingAlready =
  'ending already; SIGQUIT ends this process at once and leaves the rest to `longhaul recover`';

function answer(phase: Phase, otherwise: string): string {
  switch (phase) {
    case 'handover':
      return 'the handover is under way; if the VM is given already, what the destination decides counts';
    case 'release':
    case 'done':
      return 'too late, it is decided who has the VM; finishing';
    default:
      return otherwise;
  }
}
