import type { Connection, Transport } from '../../src/index.ts';
import { withChanges } from './worlds.ts';

/** What came back of what was received. */
export interface Recycled {
  chunks: number;
  bytes: number;
}

/**
 * A transport of which every chunk lies in memory of its own, and is written over as soon as it is given back: who looks at it later finds nothing that it could take for
 * content. A chunk that comes back twice, or that was never given, is an error.
 */
export function overwritingTransport(inner: Transport, recycled: Recycled): Transport {
  const over = (connection: Connection): Connection => {
    const lent = new Set<Uint8Array>();
    return withChanges<Connection>(connection, {
      async *receive() {
        for await (const chunk of connection.receive()) {
          const own = new Uint8Array(chunk);
          lent.add(own);
          yield own;
        }
      },
      recycle: (chunk) => {
        if (!lent.delete(chunk)) throw new Error('a chunk was given back that was not lent');
        recycled.chunks++;
        recycled.bytes += chunk.byteLength;
        chunk.fill(0xa5);
      },
    });
  };
  return withChanges<Transport>(inner, {
    open: async (options) => over(await inner.open(options)),
    accept: async (options) => over(await inner.accept(options)),
  });
}
