// The teams store: the caller's teams as the database has them now, never as a token once said. What the navigation
// shows for a team follows from here.
import { listTeams, switchTeam } from '$api/teams';
import type { Team } from '$api/types';

import { session } from './session.svelte';
import { stream } from './stream.svelte';

class Teams {
	list = $state.raw<Team[]>([]);
	loaded = $state(false);
	current = $derived(this.list.find((team) => team.id === session.me?.team_id));
	/** May register hosts, invite people, make keys for others. */
	leads = $derived(this.current?.role === 'owner' || this.current?.role === 'admin');

	async load(): Promise<void> {
		this.list = await listTeams();
		this.loaded = true;
	}

	/** Keeps it true while somebody looks; the answer ends it. */
	follow(): () => void {
		void this.load().catch(() => undefined);
		return stream.listen((change) => {
			if (change === 'again' || /^(team|member)/.test(change.resource?.kind ?? change.type)) {
				void this.load().catch(() => undefined);
			}
		});
	}

	async switchTo(id: string): Promise<void> {
		await session.taken(await switchTeam(id));
		await this.load();
	}
}

export const teams = new Teams();
