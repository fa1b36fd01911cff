import type { CallOptions, Chunks } from './content.ts';

/** One reliable byte stream, both ways. */
export interface Connection {
  /** Where it leads, for people and logs. */
  readonly label: string;
  /**
   * Sends the chunks in order; resolves when there is room for more (not when they arrived). Calls do not overlap. The chunks
   * must not change until the peer has them. Rejects with `connection-lost` once the connection is broken, closed or aborted.
   */
  send(chunks: Chunks): Promise<void>;
  /**
   * What arrives, chunk by chunk; ends when the peer closed. Throws `connection-lost` when the connection broke. Iterated once.
   * While nobody takes the next chunk, the peer is held back.
   */
  receive(): AsyncIterable<Uint8Array>;
  /**
   * Takes back a chunk of {@link Connection.receive}, the very one and once: nobody looks at its bytes any more, and what arrives next may be put there. For
   * connections that read into memory of their own; others need not have it. Who receives may give back late, in any order, or never.
   */
  recycle?(chunk: Uint8Array): void;
  /** Sends what was accepted, then ends the stream. Idempotent; resolves when it is gone. */
  close(): Promise<void>;
  /** Drops the connection and what is on its way. Idempotent. */
  abort(reason?: unknown): void;
}

/** What a {@link Transport} can do. */
export interface TransportCapabilities {
  /** {@link Transport.open} works: this end can dial. */
  readonly open: boolean;
  /** {@link Transport.accept} works: this end can be dialled. */
  readonly accept: boolean;
}

/** Opens or accepts connections between two hosts. The caller who made it closes it, not the engine. */
export interface Transport {
  /** What this end can do. */
  readonly capabilities: TransportCapabilities;
  /** How many different paths {@link Transport.open} can take, 1 or more. */
  readonly paths: number;
  /** Opens a connection over a path (0 to `paths` - 1, default 0). Rejects with `connect-failed`, or `unsupported`. */
  open(options?: CallOptions & { readonly path?: number }): Promise<Connection>;
  /**
   * The next connection that a peer opened. Connections wait, bounded in number, until they are accepted. Several calls may wait; they
   * are served in order. Rejects with `connect-failed` when the transport was closed, or `unsupported`.
   */
  accept(options?: CallOptions): Promise<Connection>;
  /** Stops listening, drops connections that were not accepted. Accepted and opened ones live on. Idempotent. */
  close(): Promise<void>;
}
