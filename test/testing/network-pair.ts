import type { Connection } from '../../src/index.ts';
import { createNetwork, type Network, type NetworkOptions } from '../../src/testing/sim/network.ts';
import type { PathOptions } from '../../src/testing/sim/network-path.ts';
import type { NetworkTransport } from '../../src/testing/sim/network-transport.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';

/** Two hosts, a path named `wan` between them, and virtual time. */
export interface NetworkPair {
  readonly environment: VirtualEnvironment;
  readonly network: Network;
  readonly source: NetworkTransport;
  readonly destination: NetworkTransport;
}

export function networkPair(
  path: Partial<PathOptions> = {},
  options: Partial<Omit<NetworkOptions, 'paths'>> = {},
): NetworkPair {
  const environment = createVirtualEnvironment();
  const network = createNetwork({ environment, ...options, paths: [{ name: 'wan', ...path }] });
  return {
    environment,
    network,
    source: network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } }),
    destination: network.transport({ host: 'destination', listen: 'vm' }),
  };
}

/** A connection, both ends of it. */
export async function connect({
  environment,
  source,
  destination,
}: NetworkPair): Promise<{ readonly near: Connection; readonly far: Connection }> {
  const [near, far] = await environment.run(Promise.all([source.open(), destination.accept()]));
  return { near, far };
}

/** Follows a promise without waiting for it: `pending`, `resolved`, or the code that it was rejected with. */
export function stateOf(promise: Promise<unknown>): () => string {
  let state = 'pending';
  promise.then(
    () => {
      state = 'resolved';
    },
    (error: { readonly code?: string }) => {
      state = error.code ?? String(error);
    },
  );
  return () => state;
}
