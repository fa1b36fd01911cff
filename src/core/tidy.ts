/** Runs every step in order, whatever the others did; resolves to what they threw. */
export async function tidy(steps: readonly (() => Promise<unknown>)[]): Promise<readonly unknown[]> {
  const problems: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      problems.push(error);
    }
  }
  return problems;
}
