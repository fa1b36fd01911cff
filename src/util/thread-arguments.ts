/**
 * What a thread is started with beside its program: as a rule all that this process was. But where that is a text
 * (`node --input-type=module --eval ...`) Node refuses a thread whose program is a file, as ours are.
 */
export function threadArguments(): { readonly execArgv?: string[] } {
  return process.execArgv.some((argument) => argument.startsWith('--input-type')) ? { execArgv: [] } : {};
}
