/**
 * Goal: where the QEMU tests are required, they are never silently skipped. Method: CI sets LONGHAUL_REQUIRE_QEMU, and what the others
 * would skip for fails here.
 */
import { expect, it } from 'vitest';
import { qemuAvailable } from './support/guest.ts';

// Elsewhere QEMU may be missing: then this counts as skipped, as do the tests that need it.
it.skipIf(process.env.LONGHAUL_REQUIRE_QEMU === undefined)('QEMU and the test guest are here', () => {
  expect(qemuAvailable()).toEqual({ available: true });
});
