"""Accents, languages, meetings, spoofed and noisy speech; sets whose audio lies in Parquet files."""

from tests.corpora.published.tree import BROKEN, Case, Parquet

_FAIR = "hash_name\ttranscription\tage\tgender\tfirst_language\tsocioeconomic_bkgd\tethnicity\n"
_CV = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment\n"
_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 60
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "R0003_M0046_F_SPK0093"
        xmin = 0
        xmax = 60
        intervals: size = 3
        intervals [1]:
            xmin = 1.0
            xmax = 4.0
            text = "你好"
        intervals [2]:
            xmin = 4.0
            xmax = 40.0
            text = ""
        intervals [3]:
            xmin = 40.0
            xmax = 45.5
            text = "再见"
    item [2]:
        class = "IntervalTier"
        name = "M_SPK0095"
        xmin = 0
        xmax = 60
        intervals: size = 1
        intervals [1]:
            xmin = 3.0
            xmax = 9.0
            text = "我们开始吧"
"""

CASES = [
    Case(
        "accent_db",
        {
            "accentdb_extended/data/american/speaker_01/american_s01_001.wav": 4.0,
            "accentdb_extended/data/welsh/speaker_01/welsh_s01_001.wav": BROKEN,
        },
        ["[00:00-00:04] (Accent: American, Duration: 4 seconds)"],
        {"unreadable": 1},
    ),
    Case(
        "voxceleb1",
        {
            "vox1_meta.csv": "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\nid10270\tX\tf\tUSA\ttest\n",
            "wav/id10001/1zcIwhmdeo4/00001.wav": 9.0,
            "wav/id10270/5r0dWxy17C8/00001.wav": 4.0,
            "wav/id10270/5r0dWxy17C8/00002.wav": BROKEN,
            "wav/id99999/5r0dWxy17C8/00002.wav": 1.0,
        },
        ["[00:00-00:09] (Gender: male, Duration: 9 seconds)", "[00:00-00:04] (Gender: female, Duration: 4 seconds)"],
        {"unreadable": 1, "broken_row": 1},
        splits=["train", "test"],
    ),
    Case(
        "ani_speech",
        {
            "data/ENGLISH-00000-of-00001.parquet": Parquet(
                [
                    {"audio": 6.0, "caption": "You have no idea how heartless those snuffs are", "voice": 3},
                    {"audio": None, "caption": "no audio", "voice": 3},
                    {"audio": BROKEN, "caption": "broken", "voice": 4},
                    {"audio": 1.0, "caption": None, "voice": 4},
                ]
            ),
            "data/ENGLISH-00001-of-00001.parquet": b"no parquet",
        },
        ["[00:00-00:06] You have no idea how heartless those snuffs are (Duration: 6 seconds)"],
        {"broken_row": 3, "unreadable": 1},
    ),
    Case(
        "globe",
        {
            "data/test-00000-of-00001.parquet": Parquet(
                [
                    {"audio": 4.0, "speaker_id": "S_1", "transcript": "the belts", "accent": "United States English", "age": "teens", "gender": "male"},
                    {"audio": 4.0, "speaker_id": None, "transcript": None, "accent": None, "age": None, "gender": None},
                ]
            )
        },
        ["[00:00-00:04] the belts (Accent: United States English, Age: teens, Gender: male, Duration: 4 seconds)"],
        {"broken_row": 1},
        splits=["test"],
    ),
    Case(
        "fair_speech",
        {
            "metadata.tsv": _FAIR
            + "a1\thi there\t31 - 45\tmale\tEnglish\tMedium\tBlack or African American\na2\tx\t18 - 22\nb3\thi\t18 - 22\tfemale\tEnglish\tLow\tWhite\n",
            "audio/a1.wav": 5.0,
            "audio/b3.wav": BROKEN,
        },
        [
            "[00:00-00:05] hi there (Gender: male, Age: 31 - 45, First Language: English, Socioeconomic Background: Medium, "
            "Ethnicity: Black or African American)"
        ],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "speech_accent_archive",
        {
            "speakers_all.csv": "age,age_onset,birthplace,filename,native_language,sex,speakerid,country,file_missing?\n"
            '40,5,"pretoria, south africa",afrikaans1,afrikaans,male,1,south africa,FALSE\n30,1,x,gone1,x,male,2,x,TRUE\nx,1,x,bad1,x,male,3,x,FALSE\n'
            "30,1,x,lost1,x,female,4,x,FALSE\n",
            "reading-passage.txt": "Please call Stella.\n",
            "recordings/recordings/afrikaans1.mp3": 22.0,
        },
        ["[00:00-00:22] Please call Stella. (Gender: male, Age: 40, Native Language: afrikaans, Country: south africa)"],
        {"broken_row": 1, "missing": 1},
    ),
    Case(
        "common_voice",
        {
            "cv/en/train.tsv": _CV + 'c1\ten_1.mp3\t"The ""boy"" swore that\t2\t0\tthirties\tmale_masculine\tWest Indies and Bermuda\t\ten\t\nc2\ten_2.mp3\n'
            "c3\ten_3.mp3\tx\t\t\t\t\t\t\ten\t\n",
            "cv/en/clips/en_1.mp3": 4.0,
            "cv/en/clips/en_3.mp3": BROKEN,
            "cv/zh-CN/dev.tsv": _CV + "c4\tzh_1.mp3\t你好\t2\t0\t\tfemale\t\t\tzh-CN\t\n",
            "cv/zh-CN/clips/zh_1.mp3": 2.0,
        },
        [
            '[00:00-00:04] The "boy" swore that (Gender: male, Age: thirties, Accent: West Indies and Bermuda, Duration: 4 seconds)',
            "[00:00-00:02] 你好 (Gender: female, Duration: 2 seconds)",
        ],
        {"broken_row": 1, "unreadable": 1},
        splits=["train", "validation"],
    ),
    Case(
        "cszs",
        {
            "cszs_es_en/data/train-00000-of-00001.parquet": Parquet(
                [
                    {"correct_audio": 3.0, "correct_transcription": "Juan de Talavera belonged to the escuela toledana.", "wrong_transcription": "w"},
                    {"correct_audio": BROKEN, "correct_transcription": "x", "wrong_transcription": "w"},
                ],
                audio=("correct_audio",),
            )
        },
        ["[00:00-00:03] Juan de Talavera belonged to the escuela toledana. (Language: Spanish-English code-switching)"],
        {"unreadable": 1},
    ),
    Case(
        "ntuml2021",
        {
            "data/dev-00000-of-00001.parquet": Parquet(
                [{"audio": 2.0, "transcription": "好那我們就開始上課吧", "file": "a"}, {"audio": None, "transcription": "x", "file": "b"}]
            )
        },
        ["[00:00-00:02] 好那我們就開始上課吧"],
        {"broken_row": 1},
        splits=["validation"],
    ),
    Case(
        "libricount",
        {
            "LibriCount10-0dB/test/0_1.wav": 5.0,
            "LibriCount10-0dB/test/0_1.json": [],
            "LibriCount10-0dB/test/2_7.wav": 5.0,
            "LibriCount10-0dB/test/2_7.json": [{"sex": "F"}],
            "LibriCount10-0dB/test/3_8.wav": BROKEN,
        },
        ["[00:00-00:05] (Number of Speakers: 0, Duration: 5 seconds)"],
        {"broken_row": 1, "unreadable": 1},
    ),
    Case(
        "voxlingua107",
        {
            "ar/Y3fNDd5TtJw__U__S53---0520.660-0529.150.wav": 19.0,
            "en/x__U__S1---0.0-1.0.wav": b"",
            "dev/en/y__U__S1---0.0-1.0.wav": 1.0,
            "noise/z.wav": 1.0,
        },
        ["[00:00-00:19] (Language: Arabic, Duration: 19 seconds)", "[00:00-00:01] (Language: English, Duration: 1 second)"],
        {"empty": 1},
        splits=["train", "validation"],
    ),
    Case(
        "asvspoof",
        {
            "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt": "LA_0079 LA_T_1 - - bonafide\nLA_0079 LA_T_2 - A01 spoof\nLA_0079 LA_T_3\n",
            "LA/ASVspoof2019_LA_train/flac/LA_T_1.flac": 2.0,
            "LA/ASVspoof2019_LA_train/flac/LA_T_2.flac": 3.0,
            "v5/ASVspoof5.dev.track_1.tsv": "D_1 D_0000000001 F - - - AC3 A11 spoof -\nD_1 D_0000000002 M - - - - bonafide bonafide -\n",
            "v5/flac_D/D_0000000001.flac": 2.0,
            "v5/flac_D/D_0000000002.flac": BROKEN,
            "2015/CM_protocol/cm_train.trn": "T1 T1_1000001 human human\n",
            "2015/wav/T1/T1_1000001.wav": 1.0,
        },
        [
            "[00:00-00:01] (Source: real human)",
            "[00:00-00:02] (Source: real human)",
            "[00:00-00:03] (Source: spoofed speech)",
            "[00:00-00:02] (Gender: female, Source: spoofed speech)",
        ],
        {"broken_row": 1, "unreadable": 1},
        splits=["train", "train", "train", "validation"],
    ),
    Case(
        "codec_fake",
        {
            "data/train-00000-of-00161.parquet": Parquet(
                [
                    {"audio": 6.0, "label": "spoofing", "codec_name": "encodec", "speaker_id": "p225", "_path": "p225_001_encodec.wav"},
                    {"audio": 6.0, "label": "what", "codec_name": "encodec", "speaker_id": "p225", "_path": "p225_002.wav"},
                    {"audio": 1.0, "label": "genuine", "codec_name": None, "speaker_id": "p999", "_path": "p999_002.wav"},
                ]
            ),
            "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n",
            "txt/p225/p225_001.txt": "There is, according to legend, a boiling pot of gold.",
        },
        [
            "[00:00-00:06] There is, according to legend, a boiling pot of gold. (Gender: female, Accent: English, Source: synthesised speech)",
            "[00:00-00:01] (Source: real human)",
        ],
        {"broken_row": 1},
    ),
    Case(
        "paraspeechcaps",
        {
            "data/train_base-00000-of-00001.parquet": Parquet(
                [
                    {
                        "source": "voxceleb",
                        "relative_audio_path": "id1/a/00001.wav",
                        "transcription": "So as a person who doesn't live in a bubble",
                        "gender": "male",
                        "accent": "British",
                        "pitch": "medium-pitched",
                        "speaking_rate": "fast speed",
                        "all_tags": ["disgusted", "raspy", "deep"],
                        "text_description": ["A man."],
                    },
                    {"source": "ears", "relative_audio_path": "gone.wav", "all_tags": []},
                    {"source": None, "relative_audio_path": "x.wav", "all_tags": []},
                    {"source": "ears", "relative_audio_path": "bad.wav", "all_tags": []},
                ],
                audio=(),
            ),
            "voxceleb/id1/a/00001.wav": 5.0,
            "ears/bad.wav": BROKEN,
        },
        [
            "[00:00-00:05] So as a person who doesn't live in a bubble (Gender: male, emotion: disgusted, Accent: British, Pitch: medium-pitched, "
            "Speaking rate: fast speed, Style: raspy; deep)"
        ],
        {"not_downloaded": 1, "broken_row": 1, "unreadable": 1},
    ),
    Case(
        "tmhint_qi",
        {
            "raw_data.csv": "idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name\n1,FCN,1,0,babble,2,8,f1\n2,FCN,1,0,babble,1,7,f1\n"
            "3,FCN,1,0,babble,3,7,f1\n4,FCN,1,0,babble,9,7,f1\n5,FCN,1\n6,FCN,1,0,babble,3,7,f2\n",
            "train/f1.wav": 4.0,
        },
        ["[00:00-00:04] (mos_score: 2, Speech_quality: 2/5 poor)"],
        {"broken_row": 2, "missing": 1},
    ),
    Case(
        "ali_meeting",
        {
            "Train_Ali_far/textgrid_dir/R0003_M0046.TextGrid": _GRID,
            "Train_Ali_far/textgrid_dir/R0004_M0001.TextGrid": "cut off",
            "Train_Ali_far/textgrid_dir/R0005_M0001.TextGrid": _GRID,
            "Train_Ali_far/audio_dir/R0003_M0046_MS002.wav": 60.0,
        },
        [
            "[00:00-00:03] 你好 (Speaker: SPK0093, Gender: female)\n[00:02-00:08] 我们开始吧 (Speaker: SPK0095, Gender: male)",
            "[00:00-00:06] 再见 (Speaker: SPK0093, Gender: female)",
        ],
        {"broken_row": 1, "missing": 1},
    ),
    Case(
        "librispeech_c",
        {
            "babble_5/test-other/1688/142285/1688-142285.trans.txt": "1688-142285-0000 THERE'S IRON THEY SAY\n1688-142285-0001\n1688-142285-0002 X\n",
            "babble_5/test-other/1688/142285/1688-142285-0000.flac": 5.0,
            "clean/x/1-2.trans.txt": "1-2-0000 HELLO\n",
        },
        ["[00:00-00:05] there's iron they say (Noise Type: babble, Signal-to-Noise Ratio: 5 dB, Duration: 5 seconds)"],
        {"broken_row": 2, "missing": 1},
        splits=["test"],
    ),
    Case(
        "vctk_musan",
        {"metadata.csv": "file,num_speakers,snr_db\na.wav,4,10\nb.wav,two,10\nc.wav,1,\nd.wav,1,5\n", "a.wav": 3.0, "c.wav": 1.0},
        [
            "[00:00-00:03] (4 speakers talking) (Noise Level: noisy, Signal-to-Noise Ratio: 10 dB)",
            "[00:00-00:01] (1 speaker talking) (Noise Level: clean)",
        ],
        {"broken_row": 1, "missing": 1},
    ),
    Case(
        "noise_reverb",
        {
            "metadata.csv": 'file,text,speaker,gender,snr_db,c50_ms\na.wav,"I pull the covers up, just enough",Alan_Alda,Male,15,60\n'
            "b.wav,x,y,Male,loud,60\nc.wav,x,y,,,\n",
            "a.wav": 4.0,
            "c.wav": BROKEN,
        },
        [
            '[00:00-00:04] Alan Alda: "I pull the covers up, just enough" (Gender: male, Noise Level: moderate (Signal-to-Noise Ratio: 15 dB), '
            "Reverberation(C50): 60 ms, Duration: 4 seconds)"
        ],
        {"broken_row": 1, "unreadable": 1},
    ),
]
