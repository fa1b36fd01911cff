/**
 * Live migration of running virtual machines, memory and disks together. {@link createSource} and {@link createDestination} are
 * the two ends; hypervisors, transports and registers plug in. Loads no sockets and no child processes.
 *
 * @packageDocumentation
 */
export { type Listener, type ListenOptions, listen } from './channel/listen.ts';
export { createTicket, parseTicket, Ticket } from './channel/ticket.ts';
export { createDestination, type DestinationOptions } from './core/destination.ts';
export {
  type AnswerQuestionsOptions,
  type AskDecisionOptions,
  answerQuestions,
  askDecision,
} from './core/handover/questions.ts';
export { type RecoverOptions, type RecoveryReport, recover } from './core/handover/recover.ts';
export type { Migration } from './core/migration.ts';
export { createSource, type SourceMigration, type SourceOptions } from './core/source.ts';
export {
  type ErrorCode,
  errorCodes,
  type GuestState,
  MigrationError,
  type MigrationErrorDetails,
  type Owner,
  type Phase,
} from './errors.ts';
export type * from './interfaces/index.ts';
export { fileRegister, memoryRegister } from './registers/index.ts';
export {
  type MemoryLink,
  type MemoryLinkOptions,
  memoryLink,
} from './transports/memory-link.ts';
