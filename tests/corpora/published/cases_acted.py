"""Acted and read speech with labelled emotions."""

from tests.corpora.published.tree import BROKEN, Case

_PODCAST = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"

CASES = [
    Case(
        "crema_d",
        {
            "VideoDemographics.csv": "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian\n",
            "AudioWAV/1001_IEO_ANG_HI.wav": 2.0,
            "AudioWAV/1001_DFA_NEU_XX.wav": BROKEN,
            "AudioWAV/1002_DFA_ANG_XX.wav": 2.0,
            "AudioWAV/1001_ZZZ_ANG_XX.wav": 2.0,
        },
        ["[00:00-00:02] It's eleven o'clock (Emotion: angry, Gender: male, Age: 51, Race: Caucasian, Ethnicity: Not Hispanic)"],
        {"broken_row": 3, "unreadable": 1},
    ),
    Case(
        "daily_talk",
        {
            "dailytalk/metadata.json": {
                "0": {
                    str(i): {"speaker": i % 2, "text": text, "emotion": "no emotion", "act": "inform", "topic": "Work", "turn": i, "index": i}
                    for i, text in enumerate(["I'm figuring out my budget.", "Let me see.", "Sure."])
                }
            },
            "dailytalk/data/0/0_0_d0.wav": 2.0,
            "dailytalk/data/0/1_1_d0.wav": BROKEN,
        },
        ["[00:00-00:02] I'm figuring out my budget. (Emotion: neutral, Act: inform, Gender: male, Duration: 2 seconds)"],
        {"missing": 1, "unreadable": 1},
    ),
    Case(
        "iemocap",
        {
            "Session1/dialog/transcriptions/Ses01F_impro01.txt": "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me?\nM: [breathing]\n",
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
            "[9.0 - 10.0]\tSes01F_impro01_M001\txxx\t[2.5000, 2.5000, 2.5000]\n[11.0 - 12.0]\tSes01F_impro01_M002\n",
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav": 2.0,
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav": BROKEN,
        },
        ["[00:00-00:02] Excuse me? (Emotion: neutral, Gender: female, Duration: 2 seconds)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "meld",
        {
            "MELD.Raw/dev_sent_emo.csv": "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode\n"
            '1,"Take it.",Monica,neutral,neutral,0,0,4,7\n2,"Oh, no",A Guy,anger,negative,0,1,4,7\n3,x,Ross,anger,negative,0,2,4,7\n4,Hi\n',
            "MELD.Raw/dev_splits_complete/dia0_utt0.wav": 2.0,
            "MELD.Raw/dev_splits_complete/dia0_utt1.flac": 3.0,
            "MELD.Raw/dev_splits_complete/dia0_utt2.wav": BROKEN,
        },
        [
            "[00:00-00:02] Take it. (Emotion: neutral, Sentiment: neutral, Gender: female, Duration: 2 seconds)",
            "[00:00-00:03] Oh, no (Emotion: angry, Sentiment: negative, Duration: 3 seconds)",
        ],
        {"broken_row": 1, "unreadable": 1},
        splits=["validation", "validation"],
    ),
    Case(
        "prompt_tts",
        {
            "metadata.csv": "item_name,text,gender,pitch,speaking_speed,volume,emotion\n"
            "a,Deeply engrossed in congenial work,F,low,slow,normal,cheerful\nb,x,F\nc,y,M,low,fast,low,sad\n",
            "wav/a.wav": 5.0,
            "wav/c.wav": BROKEN,
        },
        [
            "[00:00-00:05] Deeply engrossed in congenial work (Speaking speed: slow, Volume: normal, Pitch: low, Gender: female, Emotion: cheerful, "
            "Duration: 5 seconds)"
        ],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "expresso",
        {
            "expresso/read_transcriptions.txt": "ex01_confused_00001\tKaren's in Switzerland?\nno tab here\n",
            "expresso/splits/dev.txt": "ex01_confused_00001\nex01-ex02_default_001\t(1.0, 2.0)\n",
            "expresso/audio_48khz/read/ex01/confused/base/ex01_confused_00001.wav": 1.0,
            "expresso/audio_48khz/read/ex02/happy/base/ex02_happy_00001.wav": BROKEN,
            "expresso/audio_48khz/read/ex09/happy/base/ex09_happy_00001.wav": 1.0,
        },
        ["[00:00-00:01] Karen's in Switzerland? (Style: confused, Gender: male, Duration: 1 second)"],
        {"broken_row": 2, "unreadable": 1},
        splits=["validation"],
    ),
    Case(
        "msp_improv",
        {
            "Evalution.txt": "UTD-IMPROV-S01A-F01-P-FM01.avi; A; A:3.04; V:2.2; D:3.2 ; N:4.4;\nWORKER01; Angry; A:3; V:2; D:3; N:4;\n\n"
            "UTD-IMPROV-S01A-M01-P-FM01.avi; X; A:NaN; V:2.2; D:3.2 ; N:4.4;\nUTD-IMPROV-S01A-M01-P-FM02.avi; X\n",
            "Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav": 5.0,
            "Audio/session1/S01A/P/MSP-IMPROV-S01A-M01-P-FM01.wav": BROKEN,
            "All_human_transcriptions/MSP-IMPROV-S01A-F01-P-FM01.txt": "Yeah, well I'm going to go to class\n",
        },
        [
            "[00:00-00:05] Yeah, well I'm going to go to class (Gender: female, Emotion: angry, Activation: 3.0/5.0, Valence: 2.2/5.0, Dominance: 3.2/5.0, "
            "Naturalness: 4.4/5.0)"
        ],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "msp_podcast",
        {
            "Labels/labels_consensus.csv": _PODCAST
            + "MSP-PODCAST_0001_0008.wav,N,3.0,3.6,4.0,127,Male,Test1\nMSP-PODCAST_0001_0009.wav,X,1,2,3,Unknown,Unknown,Train\n"
            "MSP-PODCAST_0001_0010.wav,Q,1,2,3,1,Male,Train\nMSP-PODCAST_0001_0011.wav,A,1,2,3,1,Male,Development\n",
            "Audios/MSP-PODCAST_0001_0008.wav": 5.0,
            "Audios/MSP-PODCAST_0001_0009.wav": 2.0,
            "Audios/MSP-PODCAST_0001_0011.wav": BROKEN,
            "Transcripts/MSP-PODCAST_0001_0008.txt": "yeah. so we're going to end this",
        },
        [
            "[00:00-00:05] yeah. so we're going to end this (Emotion: neutral, Gender: male, Arousal: 3.0, Valence: 3.6, Dominance: 4.0)",
            "[00:00-00:02] (Arousal: 1.0, Valence: 2.0, Dominance: 3.0)",
        ],
        {"broken_row": 1, "unreadable": 1},
        splits=["test", "train"],
    ),
    Case(
        "biic_podcast",
        {
            "labels_consensus.csv": _PODCAST + "a.wav,H,4.1,5.2,4.0,s1,Female,Train\nb.wav,H,x,5.2,4.0,s1,Female,Train\nc.wav,H,1,5.2,4.0,s1,Female,Train\n",
            "Audios/a.wav": 3.0,
            "Transcripts/a.txt": "這個連結只有在現場才感受的到",
        },
        ["[00:00-00:03] 這個連結只有在現場才感受的到 (Emotion: happy, Gender: female, Sentiment: somewhat positive)"],
        {"broken_row": 1, "missing": 1},
    ),
    Case(
        "cafe",
        {
            "CaFE_48k/Colère/Faible/05-C-1-3.wav": 4.0,
            "CaFE_48k/Neutre/02-N-1-1.wav": 2.0,
            "CaFE_48k/Joie/Fort/02-J-2-9.wav": 2.0,
            "CaFE_48k/Joie/Fort/02-J-2-2.wav": BROKEN,
        },
        [
            "[00:00-00:04] Trois cygnes aveugles au bord du lac (Emotion: angry, Gender: male, Intensity: low intensity, "
            "English Translation: Three blind swans by the lake)",
            "[00:00-00:02] Un cheval fou dans mon jardin (Emotion: neutral, Gender: female, English Translation: A mad horse in my garden)",
        ],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "emovo",
        {"EMOVO/f1/dis-f1-l4.wav": 5.0, "EMOVO/m2/xyz-m2-b1.wav": 1.0, "EMOVO/m2/gio-m2-b1.wav": BROKEN},
        ["[00:00-00:05] Vorrei il numero telefonico del Signor Piatti. (Emotion: disgusted, Gender: female)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "emns",
        {
            "metadata.csv": "id|utterance|description|gender|age|emotion|level|audio_recording|user_id\n"
            '1|He was a plucked instrument instructor|"A {user_id} said"|Female|20s|Happy|6|wavs/u_1.webm|3\n2||d|Female|20s|Sad|1|wavs/u_2.webm|3\n'
            "3|x|d|Female|20s|Sad|1|wavs/u_3.webm|3\n",
            "cleaned_webm/u_1.flac": 5.0,
            "cleaned_webm/u_3.webm": BROKEN,
        },
        ["[00:00-00:05] He was a plucked instrument instructor (Emotion: happy, Gender: female, Speaker: 3, Age: 20s)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "esd",
        {
            "ESD/0001/0001.txt": "0001_000351\t我每个月打一次电话。\t愤怒\n0001_000352 no tabs\n".encode("utf-16"),
            "ESD/0011/0011.txt": "0011_000001\tHow are you?\tNeutral\n",
            "ESD/0001/Angry/test/0001_000351.wav": 2.0,
            "ESD/0011/Surprise/0011_000001.wav": 2.0,
            "ESD/0011/Sad/0011_000002.wav": BROKEN,
        },
        [
            "[00:00-00:02] 我每个月打一次电话。 (Emotion: angry, Gender: female)",
            "[00:00-00:02] How are you? (Emotion: surprised, Gender: male)",
        ],
        {"broken_row": 1, "unreadable": 1},
        splits=["test", "train"],
    ),
    Case(
        "emov_db",
        {
            "cmuarctic.data": '( arctic_a0001 "And you always want to see it." )\n',
            "bea/Amused/amused_1-15_0001.wav": 5.0,
            "sam_Sleepy/sleepiness_1-28_0600.wav": 2.0,
            "josh_Neutral/neutral_1-28_0001.wav": BROKEN,
            "beatrix/x.wav": 1.0,
        },
        ["[00:00-00:05] And you always want to see it. (Emotion: amused, Gender: female)", "[00:00-00:02] (Emotion: sleepy, Gender: male)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "dusha",
        {
            "crowd_train/raw_crowd_train.tsv": "hash_id\taudio_path\tduration\tannotator_emo\tspeaker_emo\tspeaker_text\tsource_id\n"
            "h1\twavs/h1.wav\t6\tangry\tangry\tафина поприкольней\ts7\nh1\twavs/h1.wav\t6\tangry\tangry\tафина поприкольней\ts7\n"
            "h1\twavs/h1.wav\t6\tneutral\tangry\tафина поприкольней\ts7\nh2\twavs/h2.wav\t6\tpositive\t\t\t\nh2\twavs/h2.wav\t6\tsad\t\t\t\n"
            "h3\twavs\nh4\tx\t1\tsad\t\t\t\n",
            "crowd_train/wavs/h1.wav": 6.0,
            "crowd_train/wavs/h2.wav": 2.0,
            "crowd_train/wavs/h4.wav": BROKEN,
        },
        ["[00:00-00:06] афина поприкольней (Emotion: angry, Speaker: s7, Speaker_Emotion: angry)", "[00:00-00:02]"],
        {"broken_row": 1, "unreadable": 1},
    ),
]
