import type { CallOptions } from '../../interfaces/content.ts';
import type { Connection, Transport, TransportCapabilities } from '../../interfaces/transport.ts';
import { type CallFault, type FaultOptions, FaultSchedule, type FaultTrigger } from './fault-plan.ts';
import { FaultyConnection } from './faulty-connection.ts';

/**
 * What can go wrong with a connection; `nth` counts those that the transport gave, opened or accepted, in
 * order.
 *
 * - `drop`: once so many bytes have passed, it breaks (`connection-lost` at this end, whatever the transport
 *   makes of an abort at the other), maybe in the middle of a frame.
 * - `stall`: once so many bytes have passed, nothing passes any more that way, and nobody is told. It can
 *   still be closed or aborted.
 * - `flip`: one bit of that byte is turned over on its way.
 */
export type ConnectionFault = FaultTrigger<'connection'> & {
  /** What happens. */
  readonly do: 'drop' | 'stall' | 'flip';
  /** Which way: what is sent at this end, or what is received at it. */
  readonly way: 'sent' | 'received';
  /** The byte at which it happens, counted from 0, on this connection and this way. */
  readonly atByte: number;
};

/** What can go wrong with a transport. */
export type TransportFault = CallFault<'open' | 'accept' | 'close'> | ConnectionFault;

/** A transport with faults. Throws `invalid-argument` for a plan that makes no sense. */
export function faultyTransport(
  inner: Transport,
  plan: readonly TransportFault[],
  options?: FaultOptions,
): Transport {
  return new FaultyTransport(inner, plan, options);
}

class FaultyTransport implements Transport {
  readonly #inner: Transport;
  readonly #faults: FaultSchedule<TransportFault>;

  constructor(inner: Transport, plan: readonly TransportFault[], options: FaultOptions | undefined) {
    this.#inner = inner;
    this.#faults = new FaultSchedule(plan, ['open', 'accept', 'close', 'connection'], options);
  }

  get capabilities(): TransportCapabilities {
    return this.#inner.capabilities;
  }

  get paths(): number {
    return this.#inner.paths;
  }

  open(options?: CallOptions & { readonly path?: number }): Promise<Connection> {
    return this.#wrapped(this.#faults.call('open', options?.signal, () => this.#inner.open(options)));
  }

  accept(options?: CallOptions): Promise<Connection> {
    return this.#wrapped(this.#faults.call('accept', options?.signal, () => this.#inner.accept(options)));
  }

  close(): Promise<void> {
    return this.#faults.call('close', undefined, () => this.#inner.close());
  }

  #wrapped(given: Promise<Connection>): Promise<Connection> {
    if (!this.#faults.plans('connection')) return given;
    return given.then((connection) => {
      const met = this.#faults.meets('connection').filter((fault) => fault.on === 'connection');
      return met.length === 0 ? connection : new FaultyConnection(connection, met);
    });
  }
}
