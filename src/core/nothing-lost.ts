import type { GuestLoss } from '../interfaces/migration.ts';

/** What a migration that is not the guest's business here has cost it. */
export const nothingLost: GuestLoss = { throttleMs: 0, holdMs: 0, pauseMs: 0 };
