export type { Codec } from '../util/codec.ts';
export type { CancelTimer, Environment } from '../util/environment.ts';
