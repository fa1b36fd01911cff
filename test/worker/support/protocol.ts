/** What the tests and their embedder say to each other. */
import type {
  ClaimRole,
  ClaimValue,
  Estimate,
  MigrationPolicy,
  MigrationReport,
  Phase,
} from '../../../src/index.ts';

export interface Config {
  readonly qmp: string;
  readonly vmId: string;
  /** Where the destination listens. */
  readonly port: number;
  /** Of the register. */
  readonly directory: string;
  readonly policy: MigrationPolicy;
  /**
   * In the embedder's main thread, unless it `dies`: then it is in the engine's, which ends when *given* was
   * claimed, or *reclaimed*. Default: it works.
   */
  readonly register?: 'refuses' | 'hangs' | 'dies' | 'dies reclaimed';
  /** The transport is a module whose thread can be made to die. Default false. */
  readonly mortal?: boolean;
  /** Estimates first. Default false. */
  readonly estimate?: boolean;
  /** The engine is in the embedder's main thread. Default false. */
  readonly inThread?: boolean;
}

export type Told =
  | { readonly do: 'block' | 'blockEngine'; readonly ms: number }
  | { readonly do: 'die'; readonly how: 'throw' | 'exit' }
  | { readonly do: 'abort' | 'exit' };

export interface SaidError {
  readonly ours: boolean;
  readonly code: string;
  readonly phase: Phase;
  readonly owner: string;
  readonly guest: string;
  readonly message: string;
  readonly causes: readonly { readonly name: string; readonly message: string; readonly code: unknown }[];
}

export type Said =
  | { readonly type: 'opened'; readonly name: string }
  | { readonly type: 'estimate'; readonly estimate: Estimate; readonly frozen: boolean }
  | { readonly type: 'phase'; readonly phase: Phase }
  /** Of a migration that was estimated. */
  | { readonly type: 'progress'; readonly phase: Phase; readonly predicted: boolean }
  | { readonly type: 'claim'; readonly claim: readonly [string, number, ClaimRole, ClaimValue] }
  | { readonly type: 'unblocked'; readonly ms: number }
  | {
      readonly type: 'report';
      readonly report: Omit<MigrationReport, 'error'>;
      readonly frozen: boolean;
      /** What a second `run()` came to. */
      readonly again: unknown;
      readonly error: SaidError | undefined;
    };
