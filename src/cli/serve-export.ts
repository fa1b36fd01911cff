import type { ImageExport, ImageExportAddress } from '../backends/images/index.ts';
import type { Context } from './command.ts';
import { formatEndpoint } from './endpoint.ts';
import { interruptible } from './signals.ts';
import { printable } from './units.ts';

/** Says where each of these disks is served, and resolves when a signal has ended that. */
export async function serveExport(
  exported: ImageExport,
  ids: readonly string[],
  { screen, signals }: Context,
): Promise<void> {
  const interruption = interruptible(signals, 'the images stay', (line) => screen.log(line));
  try {
    for (const id of ids) screen.log(`serving ${printable(id)} at ${uriOf(exported.address, id)}`);
    const { signal } = interruption;
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
  } finally {
    await exported.close();
    interruption.close();
  }
}

/** As qemu-img, nbdcopy and others take it. */
function uriOf(address: ImageExportAddress, id: string): string {
  const name = encodeURIComponent(id);
  if ('path' in address) {
    // A slash may stay, and is easier to read.
    return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  }
  return `nbd://${formatEndpoint(address)}/${name}`;
}
