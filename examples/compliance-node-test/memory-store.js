/** A stand-in for a control plane's database. */
export function memoryStore() {
  const entries = new Map();
  return {
    putIfAbsent: async (key, value) => {
      if (!entries.has(key)) entries.set(key, value);
      return entries.get(key);
    },
    list: async (prefix) => [...entries].filter(([key]) => key.startsWith(prefix)),
  };
}
