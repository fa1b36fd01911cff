/** The compliance suite of transports under the names by which tests call its two parts. */
import {
  type BreakableTransportFixture,
  breakTests,
  type TransportFixture,
  transportCompliance,
} from '../../src/testing/compliance/transport.ts';
import type { TestFunction } from '../../src/testing/index.ts';

export type TransportPair = TransportFixture;
export type BreakablePair = BreakableTransportFixture;

/** Declares the tests. `make` is called once for each. */
export function transportContract(test: TestFunction, make: () => Promise<TransportPair>): void {
  transportCompliance({ test, create: make });
}

/** Declares the tests for a network that breaks. */
export function breakContract(test: TestFunction, make: () => Promise<BreakablePair>): void {
  breakTests(test, make);
}
