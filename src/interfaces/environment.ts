export type { CancelTimer, Environment } from '../util/environment.ts';
