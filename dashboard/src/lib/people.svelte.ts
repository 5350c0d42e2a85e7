// Who the ids of people in lists are: the members of the team, read once when a list first names one.
import { listMembers } from '$api/teams';

class People {
	#team = '';
	#names = $state.raw(new Map<string, string>());

	/** Begins to find out about a team's. */
	know(team: string): void {
		if (!team || this.#team === team) return;
		this.#team = team;
		this.#names = new Map();
		listMembers(team).then(
			(members) => {
				if (this.#team === team)
					this.#names = new Map(members.map((one) => [one.user_id, one.name || one.email]));
			},
			// Ids are shown instead; the next page asks again.
			() => (this.#team = '')
		);
	}

	/** Undefined for whoever is no member any more, and for keys. */
	name(id: string): string | undefined {
		return this.#names.get(id);
	}
}

export const people = new People();
