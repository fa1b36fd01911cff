/**
 * Goal: where the tests with tools of others are required, they are never silently skipped. Method: CI sets
 * LONGHAUL_REQUIRE_NBD_TOOLS, and what the others would skip for fails here.
 */
import { expect, it } from 'vitest';
import { missingTools } from './nbd-tools.ts';

// Elsewhere they may be missing: then this counts as skipped, as do the tests that need them.
it.skipIf(process.env.LONGHAUL_REQUIRE_NBD_TOOLS === undefined)('the tools of others are here', () => {
  expect(missingTools).toEqual([]);
});
