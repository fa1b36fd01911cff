/** A thread that simulates the cells that it is sent, and answers each with its result. */
import { parentPort } from 'node:worker_threads';
import { type DistanceCell, simulateCell } from './distance-cell.ts';

parentPort?.on('message', async (cell: DistanceCell) => {
  parentPort?.postMessage(await simulateCell(cell));
});
