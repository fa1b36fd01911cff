/** The code of the error that a promise rejects with; `none` if it resolves. */
export async function failureCode(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error === undefined ? 'none' : String((error as { code?: string }).code ?? error);
}
