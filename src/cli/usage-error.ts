/** The command line makes no sense: nothing was opened or changed. The message names the option. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
