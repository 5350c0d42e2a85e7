// Other people of the Atoll under test, which lets everybody sign up (ATOLL_SIGNUP=open).
import { admin, ask, tokenOf } from './harness';

export interface Person {
	email: string;
	password: string;
	user_id: string;
	team_id: string;
}

let count = 0;

export async function newPerson(name: string): Promise<Person> {
	count += 1;
	const email = `${name.toLowerCase()}-${Date.now().toString(36)}-${count}@example.org`;
	const password = `correct horse ${count} ${name}`;
	const answer = await ask<Person>('POST', '/v1/auth/signup', {}, { email, password, name });
	return { ...answer, email, password };
}

/** Makes them a member of the admin's team, and lets them act in it. */
export async function joins(person: Person, role: string): Promise<void> {
	const { team_id } = await admin<{ team_id: string }>('GET', '/v1/me');
	await admin('POST', `/v1/teams/${team_id}/members`, { email: person.email, role });
}

export async function as<T>(person: Person, method: string, path: string, body?: unknown): Promise<T> {
	const token = await tokenOf(person.email, person.password);
	return ask<T>(method, path, { authorization: `Bearer ${token}` }, body);
}
