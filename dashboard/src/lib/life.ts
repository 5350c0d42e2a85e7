// What the events of a sandbox's life add up to, and what becomes of one that does not run.
import type { Sandbox, SandboxEvent } from '$api/types';

export interface Life {
	/** Seconds from its first event to its end, or until now. */
	lasted: number;
	ran: number;
	paused: number;
	/** How often it began to run. */
	starts: number;
}

export function lifeOf(events: SandboxEvent[], now: number): Life {
	const inOrder = events.toSorted((a, b) => (a.at < b.at ? -1 : 1));
	const life: Life = { lasted: 0, ran: 0, paused: 0, starts: 0 };
	for (const [at, event] of inOrder.entries()) {
		if (event.status === 'stopped') continue;
		const next = inOrder[at + 1];
		const seconds = Math.max(0, ((next ? Date.parse(next.at) : now) - Date.parse(event.at)) / 1000);
		life.lasted += seconds;
		if (event.status === 'running') {
			life.ran += seconds;
			life.starts += 1;
		} else if (event.status === 'paused') life.paused += seconds;
	}
	return life;
}

/** How far back metrics are kept in steps of five seconds, a minute, and a quarter of an hour. */
const RANGES: [range: string, seconds: number][] = [
	['10m', 600],
	['2h', 7200],
	['24h', 86_400],
	['7d', 604_800]
];

/** The shortest range of metrics that reaches back to well before `since`. */
export function rangeBefore(since: string, now: number): string {
	const seconds = (now - Date.parse(since)) / 1000;
	return RANGES.find(([, length]) => length >= seconds * 1.1 + 120)?.[0] ?? '30d';
}

/** What a resume does. */
export function resumeText(sandbox: Pick<Sandbox, 'driver'>): string {
	return sandbox.driver === 'vm'
		? 'Resumed, it goes on where it was, unless its files alone were to be kept: then it starts anew over them.'
		: 'Resumed, it goes on where it was. After a reboot of its host, or if its files alone were to be kept, it starts anew over them.';
}

/** The command that makes another one like it. */
export function likeIt(sandbox: Pick<Sandbox, 'template' | 'vcpus' | 'memory_mb' | 'disk_mb'>): string {
	const { template, vcpus, memory_mb, disk_mb } = sandbox;
	return `atoll sandbox create --template ${template} --vcpus ${vcpus} --memory ${memory_mb} --disk ${disk_mb}`;
}
