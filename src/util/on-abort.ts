/**
 * Many calls under way share their caller's one signal, and Node warns of a leak at the eleventh listener on it. So each
 * signal gets one listener of ours, which tells all who wait.
 */
const waiting = new WeakMap<
  AbortSignal,
  { readonly callbacks: Set<() => void>; readonly tell: () => void }
>();

/** Calls back once when the signal, not aborted yet, is aborted; the returned function takes it back. */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  let entry = waiting.get(signal);
  if (entry === undefined) {
    const callbacks = new Set<() => void>();
    const tell = (): void => {
      waiting.delete(signal);
      for (const one of [...callbacks]) one();
    };
    entry = { callbacks, tell };
    waiting.set(signal, entry);
    signal.addEventListener('abort', tell, { once: true });
  }
  const { callbacks, tell } = entry;
  // One entry a call, so that the same function may wait twice.
  const own = (): void => callback();
  callbacks.add(own);
  return () => {
    if (!callbacks.delete(own) || callbacks.size > 0 || waiting.get(signal)?.callbacks !== callbacks) return;
    waiting.delete(signal);
    signal.removeEventListener('abort', tell);
  };
}
