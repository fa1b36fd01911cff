/**
 * The test function of any runner: `test` of node:test or Vitest, `it` of Mocha or Jest. It gets a name and
 * what to run, which fails by rejecting. What it returns is not looked at.
 */
export type TestFunction = (name: string, run: () => Promise<void>) => unknown;

/** What every fixture of a suite has. */
export interface Fixture {
  /** Frees everything. Called once at the end of each test, whatever became of it. */
  close(): Promise<void>;
}

/** Declares a test that gets a fixture of its own. */
export type FixtureTest<T extends Fixture> = (name: string, run: (fixture: T) => Promise<void>) => void;

/** Gives each test a fixture of its own, and clears up behind it. */
export function eachWith<T extends Fixture>(test: TestFunction, create: () => Promise<T>): FixtureTest<T> {
  return (name, run) => {
    test(name, async () => {
      const fixture = await create();
      try {
        await run(fixture);
      } catch (error) {
        // Why clearing up then fails as well is no news.
        await fixture.close().catch(() => {});
        throw error;
      }
      await fixture.close();
    });
  };
}
