// What the statuses of a sandbox mean for people: a word, a tone, a shape, and what can be done in each.
import type { Sandbox, SandboxStatus } from '$api/types';

export type Tone = 'good' | 'warn' | 'bad' | 'info' | 'idle';
/** Drawn by StatusGlyph: no two tones share a shape, so that colour is never the only sign. */
export type Shape = 'ring' | 'pause' | 'turning' | 'broken' | 'cross' | 'hollow';

interface Meaning {
	word: string;
	tone: Tone;
	shape: Shape;
}

const MEANINGS: Record<SandboxStatus, Meaning> = {
	pending: { word: 'Pending', tone: 'info', shape: 'turning' },
	starting: { word: 'Starting', tone: 'info', shape: 'turning' },
	running: { word: 'Running', tone: 'good', shape: 'ring' },
	pausing: { word: 'Pausing', tone: 'info', shape: 'turning' },
	paused: { word: 'Paused', tone: 'warn', shape: 'pause' },
	resuming: { word: 'Resuming', tone: 'info', shape: 'turning' },
	stopped: { word: 'Stopped', tone: 'idle', shape: 'hollow' },
	missing: { word: 'Missing', tone: 'warn', shape: 'broken' },
	error: { word: 'Error', tone: 'bad', shape: 'cross' }
};

export const STATUSES = Object.keys(MEANINGS) as SandboxStatus[];

/** A status that this dashboard doesn't know (from a newer server) is shown as it is. */
export function meaning(status: string): Meaning {
	return MEANINGS[status as SandboxStatus] ?? { word: status, tone: 'idle', shape: 'hollow' };
}

export const TONE_TEXT: Record<Tone, string> = {
	good: 'text-good',
	warn: 'text-warn',
	bad: 'text-bad',
	info: 'text-info',
	idle: 'text-text-3'
};

const REASONS: Record<string, string> = {
	user: 'on request',
	deleted: 'on request',
	create_failed: 'it could not be made',
	client_gone: 'whoever asked for it went away',
	lost: 'its host had it no longer',
	snapshot_lost: 'what was kept of it is gone',
	restart_failed: 'it could not be started again',
	record_damaged: 'its record was damaged',
	ttl: 'idle past its timeout',
	timeout: 'idle past its timeout',
	host_disconnected: 'its host lost contact',
	host_deleted: 'its host was deleted',
	out_of_memory: 'out of memory',
	exited: 'its first process ended',
	reboot: 'its host restarted',
	host_rebooted: 'its host restarted'
};

/** A reason as people say it. */
export function reasonText(reason: string): string {
	return REASONS[reason] ?? reason.replaceAll('_', ' ');
}

export const canPause = (sandbox: Sandbox) => sandbox.status === 'running';
export const canResume = (sandbox: Sandbox) => sandbox.status === 'paused';
export const canDestroy = (sandbox: Sandbox) => sandbox.status !== 'stopped';
export const isOver = (sandbox: Sandbox) => sandbox.status === 'stopped';

export function isSandbox(object: unknown): object is Sandbox {
	const sandbox = object as Sandbox | null;
	return typeof sandbox?.id === 'string' && typeof sandbox.status === 'string' && 'template' in sandbox;
}
